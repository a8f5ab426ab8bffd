"""`isthmus plan`: what it shows, what it writes, and how it refuses."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from isthmus.planner.plan import Plan
from isthmus.spec.load import load_fleet, load_run
from isthmus.ui import cli, plans, text

FLEET = """\
sites:
  jinan:
    nodes: [{count: 4, chips: {h100: 8}, price: 2.0}, {count: 2, chips: {ascend910b: 8}, price: 1.0}]
    link: {bandwidth: 10 Gbps, delay: 10 ms}
  qingdao:
    nodes: [{count: 2, chips: {a100: 8}, price: 1.5}]
    link: {bandwidth: 5 Gbps, delay: 20 ms}
"""
RUN = "name: sevens\nmodel: llama-3-8b\ndata: {seq_len: 4096}\ntrain: {tokens: 10B, batch_size: 128}\n"
CPU = "sites: {a: {chips: {cpu: 1}}, b: {chips: {cpu: 1}}}\n"
TINY = "name: tiny\nmodel: tiny\ndata: {seq_len: 64}\ntrain: {tokens: 100k, batch_size: 8}\n"
ONE = "sites: {a: {chips: {h100: 8}}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a plan for two sites, its page, and one that train can run."""
    folder = tmp_path_factory.mktemp("plans")
    texts = {"fleet.yaml": FLEET, "run.yaml": RUN, "cpu.yaml": CPU, "tiny.yaml": TINY, "one.yaml": ONE}
    for name, content in texts.items():
        (folder / name).write_text(content)
    files = ["--fleet", str(folder / "fleet.yaml"), "--run", str(folder / "run.yaml")]
    out = ["--out", str(folder / "plan.json"), "--html", str(folder / "plan.html")]
    assert cli.main(["plan", *files, *out]) == 0
    files = ["--fleet", str(folder / "cpu.yaml"), "--run", str(folder / "tiny.yaml")]
    assert cli.main(["plan", *files, "--runnable", "--out", str(folder / "tiny.json")]) == 0
    return folder


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return plans.read_plan(folder / "plan.json")


@pytest.fixture
def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    files = ["--fleet", str(folder / "fleet.yaml"), "--run", str(folder / "run.yaml")]
    assert cli.main(["plan", *files]) == 0
    return capsys.readouterr().out


# ---- what it shows


def test_every_line_fits_the_terminal(shown: str):
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 120


def test_the_table_names_sites_and_marks_what_is_chosen(shown: str):
    table = shown[shown.index("Plans considered") : shown.index("not tried")]
    assert table.count("CHOSEN") >= 2
    assert "jinan" in table
    assert "qingdao" in table
    rows = [line for line in table.splitlines()[3:] if re.search(r" (ms|s|–) ", line)]
    assert 2 < len(rows) <= 14


def test_the_step_is_told_with_its_bounds_and_parts(shown: str):
    for words in ("in nine of ten such runs", "no plan takes less", "matmul", "budget", "costs", "H "):
        assert words in shown


def test_degrees_that_were_never_tried_are_told(shown: str):
    assert "tp above 8: a node has 8 chips" in shown.replace("\n", " ")


def test_plans_of_a_place_are_compared_by_sequence(plan: Plan):
    places = {row.place for row in plan.considered}
    assert len(places) >= 2
    for row in plan.considered:
        assert row.place.split()[0] in ("jinan", "qingdao")
        assert (row.slower == 0.0) if row.chosen else row.why
        assert row.step_s is None or row.sequences
    chosen = [row for row in plan.considered if row.chosen]
    assert {row.place.split()[0] for row in chosen} == {site.name for site in plan.sites}
    for site in plan.sites:
        mine = [row.sequences or 0 for row in chosen if row.place.startswith(site.name)]
        assert sum(mine) == pytest.approx(plan.batch_size)


def test_no_plan_of_the_chosen_place_is_faster(plan: Plan):
    used = {row.place for row in plan.considered if row.chosen}
    lone = [place for place in used if sum(row.chosen and row.place == place for row in plan.considered) == 1]
    slower = [row.slower for row in plan.considered if row.place in lone and row.slower is not None]
    assert min(slower) >= -1e-9


def test_parts_of_memory_add_up(plan: Plan):
    for site in plan.sites:
        for pipeline in site.pipelines:
            for stage in pipeline.stages:
                assert set(stage.memory) == {"weights", "gradients", "optimizer", "activations", "other"}
                assert sum(stage.memory.values()) == pytest.approx(stage.memory_bytes, abs=8)
                assert min(stage.memory.values()) >= 0
                assert stage.recompute_s <= stage.backward_s
                assert (stage.recompute_s > 0) == (stage.recompute_layers > 0)


def test_json_is_the_plan(folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]):
    files = ["--fleet", str(folder / "fleet.yaml"), "--run", str(folder / "run.yaml")]
    assert cli.main(["plan", *files, "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Plan) == plan


# ---- the page


class _Page(HTMLParser):
    """Checks that tags close in order, and keeps the text of headings and cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name not in ("src", "href") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))


def test_the_page_is_whole_and_needs_nothing_else(folder: Path, plan: Plan):
    markup = (folder / "plan.html").read_text()
    page = _Page()
    page.feed(markup)
    assert not page.open
    assert "<script" not in markup
    headings = [words for tag, words in page.texts if tag == "h2"]
    assert headings[:2] == ["Where each second of the step goes", "Plans considered"]
    assert [f"Site {site.name}" for site in plan.sites] == [name for name in headings if "Site" in name]
    assert "Reasons" in headings
    num_pipelines = sum(len(site.pipelines) for site in plan.sites)
    assert markup.count("One step:") == markup.count("Memory of each chip, by stage") == num_pipelines
    assert sum(words == "CHOSEN" for _, words in page.texts) == sum(row.chosen for row in plan.considered)
    for reason in plan.reasons:
        assert reason.replace("'", "&#x27;") in markup


# ---- train runs it


def test_a_runnable_plan_is_adopted_as_it_is(folder: Path):
    from isthmus.planner.adopt import plan_for

    given = plans.read_plan(folder / "tiny.json")
    fleet, run = load_fleet(folder / "cpu.yaml"), load_run(folder / "tiny.yaml")
    assert plan_for(fleet, run, given) == given


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("model.num_layers=3", "model (parameters)"),
        ("train.tokens=200k", "budget (sequences)"),
        ("train.batch_size=16", "train.batch_size"),
        ("data.seq_len=32", "data.seq_len"),
        ("outer.inner_steps=3", "outer.inner_steps"),
        ("outer.codec=int4", "outer.codec"),
        ("outer.mode=strict", "outer.mode"),
    ],
)
def test_train_refuses_a_plan_for_another_run(
    folder: Path, override: str, what: str, capsys: pytest.CaptureFixture[str]
):
    files = [str(folder / "tiny.yaml"), "--fleet", str(folder / "cpu.yaml")]
    plan = ["--plan", str(folder / "tiny.json"), "--run-dir", str(folder / "never")]
    assert cli.main(["train", *files, *plan, "--set", override]) == 2
    said = capsys.readouterr().err
    assert f"another {what}" in said
    assert "isthmus plan" in said
    assert not (folder / "never").exists()


def test_train_names_what_it_cannot_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    files = [str(folder / "run.yaml"), "--fleet", str(folder / "fleet.yaml")]
    assert cli.main(["train", *files, "--plan", str(folder / "plan.json")]) == 6
    said = capsys.readouterr().err
    assert "train cannot run" in said
    assert "sharded optimizers" in said
    assert "--runnable" in said


# ---- bad input


def _refused(folder: Path, capsys: pytest.CaptureFixture[str], fleet: str, *options: str, code: int) -> str:
    path = folder / "bad.yaml"
    path.write_text(fleet)
    assert cli.main(["plan", "--fleet", str(path), *options]) == code
    return capsys.readouterr().err


def test_a_trunk_to_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]):
    fleet = ONE + "trunks: {t: {sites: [a, b], bandwidth: 1 Gbps}}\n"
    said = _refused(folder, capsys, fleet, code=2)
    assert "trunk 't' leads to site 'b'" in said
    assert "the sites are a" in said


@pytest.mark.parametrize("line", ["trunks: {t: {sites: [a], bandwidth: 0 bps}}\n", ""])
def test_a_line_that_carries_nothing(folder: Path, line: str, capsys: pytest.CaptureFixture[str]):
    fleet = ONE + line if line else "sites: {a: {chips: {h100: 8}, link: {bandwidth: 0 bps}}}\n"
    said = _refused(folder, capsys, fleet, code=2)
    assert "carries nothing" in said
    assert "Gbps" in said or "Mbps" in said


def test_an_unknown_chip(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = _refused(folder, capsys, ONE.replace("h100", "h101"), code=2)
    assert "unknown chip 'h101'" in said
    assert re.search(r"nearest are .*[hH]100", said)


def test_a_chip_without_memory_and_speed(folder: Path, capsys: pytest.CaptureFixture[str]):
    fleet = "sites: {a: {chips: {mine: 8}}}\nchips: {mine: {link: 1 Tbps}}\n"
    said = _refused(folder, capsys, fleet, code=2)
    assert "chip 'mine' lacks bf16_tflops, memory, memory_bandwidth" in said
    assert "like: h100" in said


def test_a_model_that_fits_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--set", "model=skywork-moe-146b", "--set", "data.seq_len=4096"]
    said = _refused(folder, capsys, ONE, *options, code=6)
    assert re.search(r"GB more memory on each h100; or at most \d+ layers .*; or \d+ times the nodes", said)


def test_a_quorum_larger_than_the_sites(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = _refused(folder, capsys, ONE, "--set", "outer.quorum=3", code=6)
    assert "a quorum of 3" in said
    assert "at most 1" in said


def test_a_goal_with_an_unknown_site(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = _refused(folder, capsys, ONE, "--set", "goal.sites=[b]", code=2)
    assert "goal.sites: there is no site 'b'" in said


def test_a_deadline_that_cannot_be_kept(folder: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--set", "goal.deadline=1 s", "--set", "train.tokens=10B"]
    said = _refused(folder, capsys, ONE, *options, code=6)
    assert re.search(r"the least time is [\d.]+ (h|min)", said)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [("tp", 3, "possible are 1, 2"), ("ep", 3, "possible is 1"), ("pp", 90, "at most 4")],
)
def test_a_degree_by_hand_that_does_not_divide(
    folder: Path, key: str, value: int, remedy: str, capsys: pytest.CaptureFixture[str]
):
    said = _refused(folder, capsys, ONE, "--set", f"parallel.{key}={value}", code=6)
    assert f"parallel.{key}: " in said
    assert remedy in said


def test_a_degree_by_hand_that_train_cannot_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = _refused(folder, capsys, CPU, "--runnable", "--set", "parallel.tp=2", code=6)
    assert "train cannot run parallel.tp 2 yet" in said


def test_a_batch_that_ranks_cannot_share(folder: Path, capsys: pytest.CaptureFixture[str]):
    fleet = "sites: {a: {chips: {cpu: 3}}}\n"
    said = _refused(folder, capsys, fleet, "--runnable", code=6)
    assert "cannot be shared evenly by 3 ranks" in said


@pytest.mark.parametrize("text", ["not json", "{}", '{"sites": 3}', "\xff"])
def test_a_plan_file_that_is_no_plan(folder: Path, text: str, capsys: pytest.CaptureFixture[str]):
    path = folder / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    files = [str(folder / "tiny.yaml"), "--fleet", str(folder / "cpu.yaml")]
    assert cli.main(["train", *files, "--plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert "this is no plan" in said
    assert "isthmus plan --out" in said


def test_a_plan_file_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["train", str(folder / "tiny.yaml"), "--plan", str(folder / "none.json")]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_a_profile_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = _refused(folder, capsys, ONE, "--profile", str(folder / "run.yaml"), code=2)
    assert "this is no profile" in said
    assert "isthmus probe --out" in said


# ---- chips, and configurations of other trainers


def test_chips_are_listed(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "chips", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"A100-80GB", "H100-80GB"} <= {row["name"] for row in rows}
    assert cli.main(["plan", "chips"]) == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) == len(rows) + 1
    assert "~" in table


MEGATRON = """\
--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention
--num-query-groups 8 --swiglu --normalization RMSNorm --disable-bias-linear --seq-length 4096 --bf16
--max-position-embeddings 4096 --position-embedding-type rope --untie-embeddings-and-output-weights
--padded-vocab-size 128256 --micro-batch-size 1 --global-batch-size 128
--tensor-model-parallel-size {tp} --pipeline-model-parallel-size {pp} --use-distributed-optimizer
"""


def _compared(folder: Path, capsys: pytest.CaptureFixture[str], tp: int, pp: int) -> dict:
    path = folder / "megatron.sh"
    path.write_text(MEGATRON.format(tp=tp, pp=pp))
    assert cli.main(["plan", "config", str(path), "--chip", "a100", "--chips", "32", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_configuration_is_judged_beside_the_best_plan(folder: Path, capsys: pytest.CaptureFixture[str]):
    found = _compared(folder, capsys, tp=8, pp=4)
    config, best = found["config"], found["best"]
    assert (config["layout"]["tp"], config["layout"]["pp"], config["layout"]["dp"]) == (8, 4, 1)
    assert config["low_s"] < config["step_s"] < config["high_s"]
    assert sum(config["parts"].values()) == pytest.approx(config["step_s"])
    tokens = 128 * 4096 / config["step_s"] / 32
    assert config["tokens_per_s_per_chip"] == pytest.approx(tokens)
    assert found["gain"] == pytest.approx(config["step_s"] / best["step_s"] - 1)
    assert found["gain"] > 0.1, "eight chips for each matrix of an 8B model are too many"
    assert 0.2 < best["mfu"] < 0.8
    assert best["fits"]


def test_a_configuration_that_does_not_fit_is_told(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = folder / "megatron.sh"
    path.write_text(MEGATRON.format(tp=1, pp=1).replace("--use-distributed-optimizer", ""))
    assert cli.main(["plan", "config", str(path), "--chip", "a100", "--chips", "32"]) == 0
    said = capsys.readouterr().out
    assert "NO" in said
    assert re.search(r"The configuration lacks [\d.]+ GB on its fullest chips", said)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("hello", [], "neither Megatron-LM arguments nor a torchtitan configuration"),
        (MEGATRON.format(tp=8, pp=4), ["--chips", "33"], "not divisible"),
        (MEGATRON.format(tp=8, pp=4), ["--chips", "32", "--chip", "z100x"], "unknown chip"),
    ],
)
def test_a_configuration_that_is_wrong(
    folder: Path, text: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    path = folder / "wrong.sh"
    path.write_text(text)
    chip = [] if "--chip" in options else ["--chip", "a100"]
    assert cli.main(["plan", "config", str(path), *options, *chip]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("width", [100, 120, 140])
def test_the_table_of_plans_is_readable_at_usual_widths(plan: Plan, width: int):
    from rich.console import Console

    from isthmus.ui import plan_view

    out = io.StringIO()
    Console(width=width, file=out, color_system=None).print(plan_view.considered(plan))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert len(lines) <= 2 + 3 * len(plan.considered), "a reason takes three lines at most"
    assert sum(line.endswith("CHOSEN") for line in lines) == sum(row.chosen for row in plan.considered)
    for row in plan.considered:
        if row.step_s is not None:
            assert any(f" {text.duration(row.step_s)} " in line for line in lines)


def test_a_long_table_keeps_what_is_chosen(plan: Plan):
    from isthmus.ui import plan_view

    rows = plan.considered
    many = msgspec.structs.replace(plan, considered=[*rows, *rows, *rows])
    table = plan_view.considered(many)
    assert table.row_count <= max(14, 3 * sum(row.chosen for row in rows))
