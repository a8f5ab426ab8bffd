"""Configurations of other trainers, in this planner's terms; what contradicts itself is refused by name."""

from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.planner.formats import read_config
from isthmus.planner.formats.notation import read_layout, write_layout
from isthmus.planner.layout import Layout

DATA = Path(__file__).parent / "data"
SMALL = (
    "--num-layers 8 --hidden-size 64 --num-attention-heads 4 --seq-length 128 --micro-batch-size 1 "
    "--swiglu --vocab-size 512 --normalization RMSNorm"
)


def test_a_script_of_arrays():
    foreign = read_config((DATA / "dense_arrays.sh").read_text())
    expected = Layout(
        tp=2, pp=4, virtual=2, dp=4, micro_batch=2, micro_batches=32, seq_len=4096, precision="fp8"
    )
    assert foreign.layout == Layout(**{**_fields(expected), "recompute": "full"})
    assert foreign.bounds[1] == [(3, 6), (15, 18)]
    assert foreign.recompute_layers == [2, 2, 2, 2]
    assert foreign.global_batch == 256
    model = foreign.model
    assert (model.num_layers, model.num_kv_heads, model.head_dim, model.vocab_size) == (24, 4, 128, 65_536)
    assert (model.rope_theta, model.tied_head, model.num_experts) == (500_000.0, False, 0)
    assert foreign.warnings == []


def _fields(layout: Layout) -> dict:
    return {name: getattr(layout, name) for name in layout.__struct_fields__}


def test_a_script_of_strings_with_experts():
    foreign = read_config((DATA / "moe_strings.sh").read_text(), 32)
    layout, model = foreign.layout, foreign.model
    assert (layout.dp, layout.ep, layout.etp, layout.recompute) == (8, 8, 1, "selective")
    assert model.moe_layers == list(range(1, 27))
    assert (model.shared_ffn_size, model.expert_width, model.renormalize) == (2816, 1408, False)
    assert foreign.stage_layers == [13, 14]
    assert foreign.known.num_params == pytest.approx(15.7e9, rel=0.01)  # DeepSeek-V2-Lite
    assert [warning.split()[0] for warning in foreign.warnings] == ["--moe-expert-capacity-factor"]


def test_yaml_of_arguments():
    foreign = read_config((DATA / "arguments.yaml").read_text(), 8)
    assert (foreign.layout.dp, foreign.layout.tp, foreign.layout.sharding) == (4, 2, 1)
    assert (foreign.known.ffn_matrices, foreign.known.positions) == (2, "learned")
    assert foreign.model.tied_head
    assert foreign.known.num_params == pytest.approx(124e6, rel=0.02)  # GPT-2


def test_torchtitan():
    foreign = read_config((DATA / "pipeline.toml").read_text(), 32)
    layout = foreign.layout
    assert (layout.tp, layout.pp, layout.virtual, layout.dp) == (2, 4, 2, 4)
    assert (layout.micro_batch, layout.micro_batches, layout.precision) == (1, 8, "fp8")
    assert layout.sharding == 2  # in a pipeline torchtitan keeps gathered weights
    assert foreign.known.name == "Llama3-8B"
    # 32 layers, embedding and head counted as one each, over 8 chunks, the remainder to the first
    assert [end - first for chunks in foreign.bounds for first, end in chunks] == [4, 4, 5, 4, 4, 4, 4, 3]
    assert foreign.recompute_layers == [4, 4, 4, 3]


@pytest.mark.parametrize(
    ("text", "chips", "place"),
    [
        ("--num-layers $LAYERS --hidden-size 64 --num-attention-heads 4", 1, "--num-layers"),
        ("--num-layers 2.5 --hidden-size 64 --num-attention-heads 4", 1, "--num-layers"),
        ("--num-layers 0 --hidden-size 64 --num-attention-heads 4", 1, "--num-layers"),
        ("--num-layers 8 --num-attention-heads 4", 1, "--hidden-size"),
        (SMALL, 0, "--nnodes"),
        (f"{SMALL} --tensor-model-parallel-size 3", 8, "--nnodes"),
        (f"{SMALL} --global-batch-size 12", 8, "--global-batch-size"),
        (f"{SMALL} --pipeline-model-parallel-size 3", 3, "--pipeline-model-parallel-size"),
        (f"{SMALL} --group-query-attention --num-query-groups 3", 1, "--num-query-groups"),
        (f"{SMALL} --expert-model-parallel-size 2", 2, "--expert-model-parallel-size"),
        (f"{SMALL} --num-experts 6 --expert-model-parallel-size 4", 4, "--expert-model-parallel-size"),
        (f"{SMALL} --num-experts 6 --moe-layer-freq [0]*2+[1]*5", 1, "--moe-layer-freq"),
        (f"{SMALL} --num-experts 6 --moe-layer-freq __import__('os')", 1, "--moe-layer-freq"),
        (
            f"{SMALL} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et*3|t*4L'",
            2,
            "--pipeline-model-parallel-layout",
        ),
        (
            f"{SMALL} --num-virtual-stages-per-pipeline-rank 2 --num-layers-per-virtual-pipeline-stage 2",
            1,
            "--num-virtual-stages-per-pipeline-rank",
        ),
        ('[model]\nname = "llama3"\nflavor = "9B"', 8, "model.flavor"),
        ('[model]\nname = "gpt9"\nflavor = "8B"', 8, "model.name"),
        ('[model]\nflavor = "8B"\n[parallelism]\ntensor_parallel_degree = 0', 8, "parallelism.tensor"),
        ('[model]\nflavor = "8B"\n[training]\nglobal_batch_size = 12', 8, "training.global_batch_size"),
        ('[model]\nflavor = "8B', 8, "torchtitan"),
    ],
)
def test_contradictions_are_refused_where_they_are(text: str, chips: int, place: str):
    with pytest.raises(InputError) as caught:
        read_config(text, chips)
    options = ("--num-virtual-stages-per-pipeline-rank", "--num-layers-per-virtual-pipeline-stage")
    assert (caught.value.where or "").startswith(options if place in options else place)


def test_what_is_no_configuration_says_so():
    with pytest.raises(InputError, match="neither"):
        read_config("hello: world", 8)


@pytest.mark.parametrize(
    ("text", "sizes", "predict"),
    [
        ("Ett|tt|ttL", [2, 2, 2], 0),
        ("Ettt|(tt|)*29,m|L", [3, *[2] * 29, 0, 0], 1),
        ("E|t*3|(tt|)*2L", [0, 3, 2, 2, 0], 0),
        ("Et*8L", [8], 0),
    ],
)
def test_the_layout_notation_is_read(text: str, sizes: list[int], predict: int):
    assert read_layout(text) == (sizes, predict)
    if not predict:
        assert read_layout(write_layout(sizes)) == (sizes, 0)


@pytest.mark.parametrize("text", ["ttL", "Ett", "EtLt", "Etx|L", "Et*999999L", "(((t)*9999)*9999)*9999", ""])
def test_what_is_no_layout_is_refused(text: str):
    with pytest.raises(InputError, match=r"letters|embedding|more than"):
        read_layout(text)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ("--decoder-first-pipeline-num-layers 1 --decoder-last-pipeline-num-layers 1", [1, 3, 3, 1]),
        ("--account-for-embedding-in-pipeline-split --num-layers 7", [1, 2, 2, 2]),
        (
            "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split --num-layers 14",
            [3, 4, 4, 3],
        ),
        ("--pipeline-model-parallel-layout Et|t*3|t*3|tL", [1, 3, 3, 1]),
    ],
)
def test_uneven_splits_of_megatron(options: str, layers: list[int]):
    foreign = read_config(f"{SMALL} --pipeline-model-parallel-size 4 {options}".replace("|", "\\|"), 4)
    assert foreign.stage_layers == layers
