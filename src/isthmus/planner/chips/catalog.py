"""Datasheets: one row for each chip. `catalog` reads them; `find.find_chip` finds one by any spelling.

10^12 FLOP/s without sparsity: `fp32` as PyTorch multiplies by default (no TF32), `half` in bf16 with fp32
accumulation (in fp16 on Volta and Turing, which lack bf16). GiB of memory and its 10^9 bytes/s. `link` and `nic`
are 10^9 bytes/s of one chip in one direction, so half of what makers call NVLink's bandwidth; without a link of
its own a chip has that of its PCIe slot. `node` is chips per node, `domain` those that the link joins (0: a node).

'~' before a value: only believed. '+': derived from others on the page. '-': unknown, or it has no such units.
"""

from functools import cache

from isthmus.planner.chips.chip import ChipModel, Origin

# fmt: off
TABLE = """
name              generation  fp32   half   fp8    fp4    GiB   GB/s   link   nic    node domain library source
V100-16GB         volta       15.7   125    -      -      16    900    150    ~12.5  8    0      nccl    v100
V100-32GB         volta       15.7   125    -      -      32    900    150    ~12.5  8    0      nccl    v100
T4                turing      8.1    65     -      -      16    320    +16    ~6.25  8    0      nccl    t4
Titan-RTX         turing      16.3   130.5  -      -      24    672    +16    ~1.25  8    0      nccl    turing
RTX-2080          turing      10.1   40.3   -      -      8     448    +16    ~1.25  8    0      nccl    turing
RTX-2080Ti        turing      13.4   53.8   -      -      11    616    +16    ~1.25  8    0      nccl    turing
A10               ampere      31.2   125    -      -      24    600    +32    ~12.5  8    0      nccl    a10
A30               ampere      10.3   165    -      -      24    933    +32    ~12.5  8    0      nccl    a30
A40               ampere      37.4   149.7  -      -      48    696    +32    ~12.5  8    0      nccl    a40
A100-40GB         ampere      19.5   312    -      -      40    1555   300    25     8    0      nccl    a100
A100-80GB         ampere      19.5   312    -      -      80    2039   300    25     8    0      nccl    a100
A100-80GB-PCIe    ampere      19.5   312    -      -      80    1935   +32    ~25    8    0      nccl    a100
A800-80GB         ampere      19.5   312    -      -      80    2039   200    25     8    0      nccl    a800
RTX-3090          ampere      35.6   71     -      -      24    936    +32    ~1.25  8    0      nccl    ga102
L4                ada         30.3   121    242    -      24    300    +32    ~12.5  8    0      nccl    l4
L20               ada         ~59.8  ~119.5 ~239   -      48    864    +32    ~25    8    0      nccl    l20
L40               ada         90.5   181    362    -      48    864    +32    ~25    8    0      nccl    l40
L40S              ada         91.6   362    733    -      48    864    +32    ~25    8    0      nccl    l40s
RTX-4090          ada         82.6   165.2  330.3  -      24    1008   +32    ~1.25  8    0      nccl    ada
H100-80GB         hopper      67     989    1979   -      80    3350   450    50     8    0      nccl    h100
H100-80GB-PCIe    hopper      51     756    1513   -      80    2039   +64    ~50    8    0      nccl    h100
H100-94GB-NVL     hopper      60     835    1671   -      94    3900   +64    ~50    8    0      nccl    h100
H100-96GB-500W    hopper      ~67    989    1979   -      96    2400   450    50     8    0      nccl    titan
H800-80GB         hopper      ~67    ~989   ~1979  -      80    ~3350  200    50     8    0      nccl    h800
H20               hopper      ~44    ~148   ~296   -      96    ~4000  ~450   ~50    8    0      nccl    h20
H200              hopper      67     989    1979   -      141   4800   450    50     8    0      nccl    h200
GH200-96GB        hopper      67     990    1979   -      96    4000   450    25     4    0      nccl    gh200
GH200-144GB       hopper      67     990    1979   -      144   4900   450    ~25    4    0      nccl    gh200
B100              blackwell   60     1750   3500   7000   ~180  8000   900    50     8    0      nccl    b200
B200              blackwell   75     2250   4500   9000   180   8000   900    50     8    0      nccl    b200
B300              blackwell   ~75    2250   4500   13500  270   8000   900    100    8    0      nccl    b300
GB200             blackwell   80     2500   5000   10000  186   8000   900    50     4    72     nccl    gb200
GB300             blackwell   ~80    2500   5000   15000  279   8000   900    100    4    72     nccl    gb300
RTX-5090          blackwell   104.8  209.5  419    1676   32    1792   +64    ~1.25  8    0      nccl    gb202
MI250X            cdna        47.9   383    -      -      128   3277   ~150   25     4    0      rccl    mi250x
MI300X            cdna        163.4  1307   2615   -      192   5300   448    50     8    0      rccl    mi300x
MI325X            cdna        163.4  1307   2615   -      256   6000   448    50     8    0      rccl    mi325x
MI355X            cdna        157.3  2517   5033   10066  288   8000   537    50     8    0      rccl    mi355x
Ascend-910A       ascend      ~16    ~256   -      -      32    ~1200  ~30    ~12.5  8    0      hccl    ascend
Ascend-910B1      ascend      ~94    ~378.9 -      -      64    ~1600  ~196   25     8    0      hccl    ascend
Ascend-910B2      ascend      ~88    ~353.9 -      -      64    ~1600  ~196   25     8    0      hccl    ascend
Ascend-910B3      ascend      ~73    ~294.9 -      -      64    ~1600  ~196   25     8    0      hccl    ascend
Ascend-910B4      ascend      ~67    ~270.3 -      -      32    ~800   ~196   25     8    0      hccl    ascend
Ascend-910C       ascend      ~176   ~752   -      -      128   ~3200  ~392   50     8    384    hccl    ascend
K100-AI           hygon       ~49    ~192   -      -      64    ~896   ~32    ~25    8    0      rccl    -
MLU370-X8         cambricon   ~24    ~96    -      -      48    ~614   ~100   ~25    8    0      cncl    -
MLU590            cambricon   ~80    ~314   -      -      80    ~2000  ~150   ~50    8    0      cncl    -
C500              metax       ~36    ~280   -      -      64    ~1800  ~100   50     8    0      mccl    metax
C550              metax       ~36    ~280   -      -      64    ~1800  ~100   50     8    0      mccl    metax
BI-V150           iluvatar    ~48    ~196.8 -      -      64    ~1200  ~92    ~25    8    0      ixccl   iluvatar
S4000             musa        ~25    ~98    -      -      48    ~768   ~120   25     8    0      mccl    -
S5000             musa        ~32    ~512   ~1024  -      80    ~1600  ~392   50     8    0      mccl    -
P800              kunlunxin   ~86    ~345   -      -      64    ~1200  ~200   ~50    8    0      bkcl    -
PPU               thead       ~60    ~120   -      -      96    ~2700  ~350   ~50    16   0      nccl    ppu
TPU-v4            tpu         -      275    -      -      32    1228   300    ~12.5  4    64     xla     tpu
TPU-v5e           tpu         -      197    -      -      16    819    200    ~12.5  8    256    xla     tpu
TPU-v5p           tpu         -      459    -      -      95    2765   600    ~25    4    64     xla     tpu
TPU-v6e           tpu         -      918    -      -      32    1640   448    ~25    8    256    xla     tpu
Gaudi2            gaudi       -      432    865    -      96    2450   262.5  37.5   8    0      habana  gaudi
Gaudi3            gaudi       -      1835   1835   -      128   3700   525    75     8    0      habana  gaudi
Trainium2         trainium    -      667    1299   -      96    2900   ~512   25     16   0      neuron  trainium
cpu               cpu         ~0.05  -      -      -      ~4    ~10    ~1     ~1     ~4   0      gloo    -
"""

SOURCES = {
    "-": "no page was found",
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
    "TPU-v5e": "tpu-v5-lite tpu-v5litepod",
    "TPU-v6e": "trillium",
    "Trainium2": "trn2",
}
# fmt: on

_FIELDS = {
    "fp32": "fp32_tflops", "half": "bf16_tflops", "fp8": "fp8_tflops", "fp4": "fp4_tflops",
    "GiB": "memory_gib", "GB/s": "memory_gb_s", "link": "link_gb_s", "nic": "nic_gb_s",
    "node": "per_node", "domain": "node_domain",
}  # fmt: skip
_MARKS: dict[str, Origin] = {"~": "believed", "+": "derived"}


@cache
def catalog() -> dict[str, ChipModel]:
    """Every chip of the table by its name."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return {row[0]: _chip(dict(zip(head, row, strict=True))) for row in rows}


def _chip(row: dict[str, str]) -> ChipModel:
    origins = {field: _MARKS[row[column][0]] for column, field in _FIELDS.items() if row[column][0] in _MARKS}
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
        source=SOURCES.get(row["source"], ""),
    )
