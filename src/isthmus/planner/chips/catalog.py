"""Datasheets: one row for each chip. `catalog` reads them; `find.find_chip` finds one by any spelling.

Columns: 10^12 FLOP/s of dense products in `fp32` as PyTorch multiplies by default (no TF32), in `half`
(bf16 with fp32 accumulation; fp16 on Volta and Turing, which lack bf16), fp8 and fp4; memory in GiB, its
10^9 bytes/s; `link` and `nic` in 10^9 bytes/s of one chip in one direction, so half of what makers say of
NVLink (a chip without a link has that of its PCIe slot); `node` is chips per node, `domain` those that the
link joins if more than a node.

A chip is what one rank drives: a die of an Ascend 910C or an MI250X, of which a package has two. A maker's
GB of memory is taken as a GiB, which drivers show within 1 %; GDDR memory that corrects errors has 1/16
less.

Before a value: '~' only believed, '+' derived from others on the page, '^' measured by somebody; '-' no
such units, or unknown.
"""

from functools import cache

from isthmus.planner.chips.chip import ChipModel, Origin

# fmt: off
TABLE = """
name           generation fp32   half   fp8     fp4    GiB  GB/s  link   nic    node domain library source
V100-16GB      volta      ~15.7  ~125   -       -      16   900   ~150   ~12.5  8    0      nccl    viewer
V100-32GB      volta      ~15.7  ~125   -       -      32   900   ~150   ~12.5  8    0      nccl    viewer
T4             turing     ~8.1   65     -       -      +15  320   +16    ~6.25  8    0      nccl    predictor
Titan-RTX      turing     ~16.3  130    -       -      24   ~672  +16    ~1.25  8    0      nccl    titan
RTX-2080       turing     +10.1  ~40.3  -       -      8    448   +16    ~1.25  8    0      nccl    guru
RTX-2080Ti     turing     +13.4  ~53.8  -       -      11   616   +16    ~1.25  8    0      nccl    guru
A10            ampere     31.2   125    -       -      +22.5 600   +32    ~12.5  8    0      nccl    calwoo
A30            ampere     ~10.3  165    -       -      24   ~933  +32    ~12.5  8    0      nccl    calwoo
A40            ampere     37.4   149.7  -       -      +45  696   +32    ~12.5  8    0      nccl    a40
A100-40GB      ampere     19.5   312    -       -      40   1555  300    25     8    0      nccl    viewer
A100-80GB      ampere     19.5   312    -       -      80   2039  300    25     8    0      nccl    viewer
A100-80GB-PCIe ampere     19.5   312    -       -      80   1935  +32    ~25    8    0      nccl    predictor
A800-80GB      ampere     19.5   312    -       -      80   2039  200    ^12.5  8    0      nccl    skywork
RTX-3090       ampere     35.6   71.2   -       -      24   ~936  +32    ~1.25  8    0      nccl    calwoo
L4             ada        31.3   125.3  250.7   -      +22.5 ~300  +32    ~12.5  8    0      nccl    l4
L20            ada        59.4   ~119.5 ~239    -      +45  864   +32    ~25    8    0      nccl    l20
L40            ada        90.5   181    ~362    -      +45  864   +32    ~25    8    0      nccl    viewer
L40S           ada        91.6   366.4  732.9   -      +45  ~864  +32    ~25    8    0      nccl    l40s
RTX-4090       ada        82.6   165.2  330.3   -      24   1008  +32    ~1.25  8    0      nccl    ada
H100-80GB      hopper     66.9   989.4  1978.9  -      80   3350  450    50     8    0      nccl    h100
H100-80GB-PCIe hopper     ~51    756.5  +1513   -      80   2000  +64    ~50    8    0      nccl    pb11133
H100-94GB-NVL  hopper     ~60    ~835   ~1671   -      94   ~3900 +64    ~50    8    0      nccl    nvl
H100-96GB-500W hopper     ~66.9  +884   +1769   -      96   2400  ~450   50     8    0      nccl    ttitan
H800-80GB      hopper     ~66.9  ^989.4 ~1978.9 -      80   ~3350 ~200   ~50    8    0      nccl    h800
H20            hopper     44     148    +296    -      96   4000  450    ~50    8    0      nccl    h20
H200           hopper     66.9   989.4  1978.9  -      141  4800  450    50     8    0      nccl    h200
GH200-96GB     hopper     ~66.9  ~989.4 ~1978.9 -      96   ~4000 ~450   ~25    4    0      nccl    gh200
GH200-144GB    hopper     ~66.9  ~989.4 ~1978.9 -      144  ~4900 ~450   ~25    4    0      nccl    gh200
B100           blackwell  ~60    ~1750  ~3500   ~7000  ~180 ~8000 ~900   ~50    8    0      nccl    b200
B200           blackwell  75     2250   4500    9000   180  8000  900    50     8    0      nccl    b200
B300           blackwell  75     2250   4500    13125  ~268 8000  900    100    8    0      nccl    b300
GB200          blackwell  ~80    2500   5000    10000  ~186 8000  900    50     4    72     nccl    b200
GB300          blackwell  ~80    +2500  5000    +15000 +277 8000  900    100    4    72     nccl    b300
RTX-5090       blackwell  104.8  +209.5 ~419    +1676  32   1792  +64    ~1.25  8    0      nccl    gb202
MI250X         cdna       ~47.9  +191.5 -       -      64   ~1638 50     ~12.5  8    0      rccl    mi250
MI300X         cdna       ~163.4 1307   ~2615   -      192  5300  448    ~50    8    0      rccl    mi300
MI325X         cdna       ~163.4 ~1307  ~2615   -      256  6000  ~448   ~50    8    0      rccl    mi300
MI355X         cdna       ~157.3 ~2517  ~5033   ~10066 288  8000  ~537   ~50    8    0      rccl    mi300
Ascend-910A    ascend     ~16    256    -       -      32   ~1200 90     25     8    0      hccl    a910
Ascend-910B1   ascend     +93.5  373.9  -       -      64   ~1600 +196   25     8    0      hccl    a910b
Ascend-910B2   ascend     +88.5  353.9  -       -      64   ~1600 +196   25     8    0      hccl    a910b
Ascend-910B3   ascend     +73.7  294.9  -       -      64   ~1600 +196   25     8    0      hccl    a910b
Ascend-910B4   ascend     +61.4  245.8  -       -      ~32  ~800  +196   25     8    0      hccl    a910b
Ascend-910C    ascend     +88.5  353.9  -       -      +64  +1600 +196   ~25    16   0      hccl    a910c
K100-AI        hygon      49     196    -       -      64   896   ~32    ~25    8    0      rccl    k100
MLU370-X8      cambricon  32     96     -       -      48   614.4 +100   ~25    8    0      cncl    mlu370
MLU590         cambricon  ~80    ~314   -       -      ~80  ~2000 ~150   ~50    8    0      cncl    -
C500           metax      36     280    -       -      64   ~1800 ~100   ^6.25  8    0      mccl    c500
C550           metax      ~36    ~280   -       -      64   1800  ~100   50     8    0      mccl    c550
BI-V150        iluvatar   ~48    ^196.8 -       -      64   ~1200 ^92.5  ^15.6  8    0      ixccl   bi150
S4000          musa       25     100    -       -      48   768   +120   25     8    0      mccl    s4000
S5000          musa       ~32    +512   1024    -      80   +1600 ~392   50     8    0      mccl    s5000
P800           kunlunxin  ~86    ~345   -       -      ~64  ~1200 ~200   ~50    8    0      bkcl    -
PPU            thead      ~30    +118.7 -       -      96   ~2700 +350   ~50    16   0      nccl    ppu
TPU-v4         tpu        -      ~275   -       -      ~32  ~1228 ~300   ~6.25  4    ~4096  xla     -
TPU-v5e        tpu        -      197    -       -      16   819   200    +3.125 8    256    xla     v5e
TPU-v5p        tpu        -      459    459     -      95   2765  600    6.25   4    8960   xla     v5p
TPU-v6e        tpu        -      918    -       -      32   1638  400    ~12.5  8    256    xla     v6e
Gaudi2         gaudi      -      432    ~865    -      96   2450  ~262.5 ~37.5  8    0      habana  gaudi
Gaudi3         gaudi      -      1835   1835    -      128  3700  ~525   ~75    8    0      habana  gaudi
Trainium2      trainium   181    667    1299    -      96   2900  ~640   ~25    16   0      neuron  trn2
cpu            cpu        ~0.05  -      -       -      ~4   ~10   ~1     ~1     ~4   0      gloo    -
"""

SOURCES = {
    "-": "no page was found",
    "viewer": "github.com/hahnyuan/LLM-Viewer hardwares/hardware_params.py (cites NVIDIA's white papers); "
        "fp32: hmc-tech.com/gpu/nvidia-l4-vs-nvidia-a100-40gb; NIC: arXiv 2205.05198",
    "predictor": "github.com/feitang0/LM-Predictor hardware.py",
    "titan": "computerthang.com/p/nvidia-titan-rtx-graphics-card-a291",
    "guru": "guru3d.com/articles-pages/geforce-rtx-2080-founders-review,2.html (cores x 2 x boost clock)",
    "calwoo": "calwoo.github.io/notes/concepts/deep-learning-engineering/nvidia-gpu-hardware",
    "a40": "hmc-tech.com/gpu/nvidia-l40-vs-nvidia-a40",
    "skywork": "arXiv 2406.06563 appendix B (NVLink 400 GB/s both ways, 800 Gb/s RoCE of a node); LLM-Viewer",
    "l4": "hmc-tech.com/gpu/nvidia-l4-vs-nvidia-a40",
    "l20": "topcpu.net/en/gpu-c/a40-pcie-vs-l20",
    "l40s": "hmc-tech.com/gpu/nvidia-l40s-vs-nvidia-a16",
    "ada": "waredb.com/processor/nvidia-geforce-rtx-4090",
    "h100": "glennklockwood.com/garden/processors/h100",
    "pb11133": "NVIDIA PB-11133-001 (H100 PCIe); LLM-Viewer",
    "nvl": "gpu.blog/gpus/nvidia-h100-nvl (memory)",
    "ttitan": "github.com/pytorch/torchtitan benchmarks (96 GB HBM2e of 2.4 TB/s, 500 W, 400 Gb/s); rates: "
    "those at 700 W x (500 / 700)^(1/3), as power goes with the cube of the clock",
    "h800": "FlagPerf's MFU of llama2_70B implies the peak; the rest as H100, NVLink 400 GB/s both ways",
    "h20": "zangshuxian.com/new/674733024499207168; willitrunai.com/es/gpus/h20-96gb",
    "h200": "glennklockwood.com/garden/processors/h100; rooflinenotes.dev/accelerators",
    "gh200": "as H100; nodes of four with 200 Gb/s each, as at CSCS",
    "b200": "glennklockwood.com/garden/processors/B200; fibermall.com/blog/?p=17161 (HGX, fp32)",
    "b300": "glennklockwood.com/garden/processors/B300; acecloud.ai/blog/nvidia-hgx-b300 (NIC)",
    "gb202": "pocketmags.com, Linux Format May 2025 (838 TFLOPS of sparse fp16 with fp16 accumulation / 4)",
    "mi250": "rocm.docs.amd.com gpu-arch/mi250; 383 TFLOPS of a package of two dies",
    "mi300": "rooflinenotes.dev/accelerators; emergentmind.com/topics/amd-mi300x-gpu (link)",
    "a910": "vengineer.hatenablog.com/entry/2019/09/06",
    "a910b": "Huawei's torchtitan for NPUs (peak of the cube units; fp32 is a quarter, as the measured 87 "
        "TFLOPS of limulidae confirm); udn.com/news/story/7333/9013137 (392 GB/s both ways)",
    "a910c": "one of two dies; Huawei's torchtitan for NPUs; techpowerup.com/335749; besthub.dev (784 GB/s)",
    "k100": "github.com/wangzy0327/hblas-bench DCU-bench.md",
    "mlu370": "guangxilong.com/c/032129635H022.html (MLU-Link 200 GB/s, taken as both ways)",
    "c500": "ai.gitee.com/docs/compute/clusters_gpu/mx_gpu; FlagPerf training/metax (2 x 200 Gb/s a node)",
    "c550": "github.com/FlagOpen/FlagPerf base/*/metax/C550",
    "bi150": "github.com/FlagOpen/FlagPerf base/benchmarks/*/iluvatar/BI150",
    "s4000": "io-tech.fi 2023-12 (MTLink 240 GB/s both ways); FlagPerf P2P_interserver (NIC)",
    "s5000": "ldeepai.com/tech-hub/moore-threads-mtt-s5000 (fp8; bf16 is half); musaInfo; FlagPerf (NIC)",
    "ppu": "hxjkbz.com/n/959285 (1,945 PFLOPS of 16,384 cards in 1,024 nodes; 700 GB/s both ways)",
    "v5e": "docs.cloud.google.com/tpu/docs/v5e",
    "v5p": "docs.cloud.google.com/tpu/docs/v5p-training",
    "v6e": "docs.cloud.google.com/tpu/docs/v6e",
    "gaudi": "pcguia.pt 2024-04; yobitel.com/knowledge-base/intel-gaudi-3; 21 of the 24 ports inside a node",
    "trn2": "awsdocs-neuron.readthedocs-hosted.com about-neuron/arch/neuron-hardware/trainium2",
}

ALIASES = {
    "V100-16GB": "tesla-v100-sxm2-16gb",
    "V100-32GB": "v100 tesla-v100-sxm2-32gb v100-sxm2-32gb v100-sxm2",
    "T4": "tesla-t4",
    "RTX-2080": "geforce-rtx-2080",
    "RTX-2080Ti": "geforce-rtx-2080-ti",
    "RTX-3090": "geforce-rtx-3090",
    "RTX-4090": "geforce-rtx-4090",
    "RTX-5090": "geforce-rtx-5090",
    "A100-40GB": "a100-40gb-sxm a100-sxm-40gb a100-sxm4-40gb",
    "A100-80GB": "a100 a100-sxm a100-sxm4 a100-80gb-sxm a100-80gb-sxm4 a100-sxm-80gb a100-sxm4-80gb",
    "A100-80GB-PCIe": "a100-pcie a100-pcie-80gb",
    "A800-80GB": "a800 a800-sxm4-80gb a800-80gb-sxm",
    "H100-80GB": "h100 h100-sxm h100-sxm5 h100-80gb-sxm h100-80gb-sxm5 h100-80gb-hbm3 h100-sxm5-80gb",
    "H100-80GB-PCIe": "h100-pcie",
    "H100-94GB-NVL": "h100-nvl",
    "H800-80GB": "h800 h800-sxm h800-80gb-sxm",
    "H20": "h20-96gb",
    "H200": "h200-sxm h200-141gb",
    "GH200-96GB": "gh-96 gh200 gh200-480gb gh-96gb",
    "GH200-144GB": "gh-144 gh-144gb",
    "B200": "b200-sxm hgx-b200 dgx-b200",
    "B300": "b300-sxm hgx-b300 dgx-b300",
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "Ascend-910A": "ascend910 ascend-910-2019 910a",
    "Ascend-910B1": "910b1",
    "Ascend-910B2": "910b2",
    "Ascend-910B3": "ascend910b 910b 910b3 ascend-npu-910-series",
    "Ascend-910B4": "910b4",
    "Ascend-910C": "910c",
    "MI250X": "mi250",
    "K100-AI": "hygon-k100-ai k100 hygon-k100 dcu-k100-ai",
    "MLU370-X8": "mlu370 cambricon-mlu370 cambricon-mlu370-x8",
    "MLU590": "cambricon-mlu590",
    "C500": "metax-c500",
    "C550": "metax-c550",
    "BI-V150": "bi150 iluvatar-bi-v150 iluvatar-bi150",
    "S4000": "mtt-s4000 moore-threads-s4000",
    "S5000": "mtt-s5000 moore-threads-s5000",
    "P800": "kunlunxin-p800 kunlun-p800",
    "PPU": "t-head-ppu",
    "TPU-v5e": "tpu-v5lite tpu-v5litepod",
    "TPU-v6e": "trillium",
    "Trainium2": "trn2",
}
# fmt: on

_FIELDS = {
    "fp32": "fp32_tflops", "half": "bf16_tflops", "fp8": "fp8_tflops", "fp4": "fp4_tflops",
    "GiB": "memory_gib", "GB/s": "memory_gb_s", "link": "link_gb_s", "nic": "nic_gb_s",
    "node": "per_node", "domain": "node_domain",
}  # fmt: skip
_MARKS: dict[str, Origin] = {"~": "believed", "+": "derived", "^": "published"}


@cache
def catalog() -> dict[str, ChipModel]:
    """Every chip of the table by its name."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return {row[0]: _chip(dict(zip(head, row, strict=True))) for row in rows}


def _chip(row: dict[str, str]) -> ChipModel:
    marks = {field: row[column][0] for column, field in _FIELDS.items()}
    origins: dict[str, Origin] = {field: _MARKS[mark] for field, mark in marks.items() if mark in _MARKS}
    values = {field: row[column].lstrip("".join(_MARKS)) for column, field in _FIELDS.items()}
    numbers = {field: 0.0 if value == "-" else float(value) for field, value in values.items()}
    return ChipModel(
        name=row["name"],
        aliases=ALIASES.get(row["name"], "").split(),
        generation=row["generation"],
        fp32_tflops=numbers["fp32_tflops"],
        bf16_tflops=numbers["bf16_tflops"],
        fp8_tflops=numbers["fp8_tflops"],
        fp4_tflops=numbers["fp4_tflops"],
        memory_gib=numbers["memory_gib"],
        memory_gb_s=numbers["memory_gb_s"],
        link_gb_s=numbers["link_gb_s"],
        nic_gb_s=numbers["nic_gb_s"],
        per_node=int(numbers["per_node"]),
        node_domain=int(numbers["node_domain"]),
        collectives=row["library"],
        origins=origins,
        source=SOURCES[row["source"]],
    )
