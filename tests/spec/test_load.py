import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InputError, IsthmusError, NotFoundError
from isthmus.spec.document import MAX_DEPTH
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.load import load_fleet, load_run, split_overrides, to_yaml
from isthmus.spec.presets import presets
from isthmus.spec.run import RunSpec, SourceSpec
from isthmus.units import Bandwidth, Seconds

RUN = """\
name: first
model:
  preset: tiny-moe
  num_layers: 6
data:
  sources: [stdlib, {path: "books/*.txt", weight: 2}]
train:
  lr: 1e-3
  tokens: 3M
  betas: [0.9, 0.99]
outer:
  mode: strict
  site_timeout: 2 min
"""

FLEET = """\
sites:
  jinan: {nodes: 2, chips: {ascend910b: 8}, link: {bandwidth: 100 Mbps, delay: 30 ms}}
  shanghai:
    nodes:
    - {chips: {h100: 8}}
    - {count: 3, chips: {a100: 4, cpu: 1}}
  spare:
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def failure(load, path, overrides=()):
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    assert caught.value.hint
    return caught.value


def test_nothing_given_means_defaults(write):
    assert load_run() == RunSpec()
    assert load_fleet() == FleetSpec()
    assert load_run(write("")) == RunSpec()
    assert load_run(write("train:\nouter: {}\n")) == RunSpec()


def test_a_run_with_short_forms(write):
    run = load_run(write(RUN))
    assert run.model.num_layers == 6
    assert run.model.num_experts == presets["tiny-moe"].num_experts
    assert run.data.sources == [SourceSpec(), SourceSpec(path="books/*.txt", weight=2.0)]
    assert run.train.lr == 1e-3
    assert run.train.tokens == 3_000_000
    assert run.train.betas == (0.9, 0.99)
    assert run.outer.site_timeout == 120


def test_a_fleet_with_short_forms(write):
    sites = load_fleet(write(FLEET)).sites
    link = LinkSpec(bandwidth=Bandwidth(1e8), delay=Seconds(0.03))
    assert sites["jinan"] == SiteSpec(nodes=[NodeSpec(count=2, chips={"ascend910b": 8})], link=link)
    assert [site.num_ranks for site in sites.values()] == [16, 23, 1]


@pytest.mark.parametrize(
    ("load", "text"), [(load_run, RUN), (load_fleet, FLEET), (load_run, ""), (load_fleet, "")]
)
def test_written_and_loaded_again_is_equal(write, load, text):
    spec = load(write(text))
    assert load(write(to_yaml(spec))) == spec


def test_a_model_may_be_a_name(write):
    assert load_run(write("model: small")).model == presets["small"]
    assert load_run(write("model: small"), ["model=tiny"]).model == presets["tiny"]
    assert load_run(write("model: small"), ["model.num_layers=2"]).model.num_layers == 2


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (
            "train:\n  lr: 1\n  bach_size: 4",
            3,
            "unknown key 'bach_size' in train",
            "did you mean 'batch_size'",
        ),
        ("traim: {}", 1, "unknown key 'traim'", "did you mean 'train'"),
        (
            "data:\n  sources:\n  - path: a\n    colour: 3",
            4,
            "unknown key 'colour'",
            "path, weight, text_field",
        ),
        ("train:\n  tokens: 3Q", 2, "unknown unit 'Q'", "2M"),
        ("outer:\n  site_timeout: '30'", 2, "no unit", "30 ms"),
        ("train:\n  batch_size: many", 2, "'many' is not a whole number", "write a whole number"),
        ("train:\n  batch_size: 0", 2, "0 is not a whole number >= 1", ">= 1"),
        ("train:\n\n  lr: -0.1", 3, "-0.1 is not a number > 0", "> 0"),
        ("name: 2024", 1, "2024 is not text", "quotes"),
        ("train: 3", 1, "3 is not a mapping", "key: value"),
        ("train:\n  betas: [0.9]", 2, "[0.9] is not a list of length 2", "a list of length 2"),
        ("train:\n  optimizer: adam", 2, "none of adamw, sgd", "adamw"),
        ("model: tiny-mo", 1, "unknown preset 'tiny-mo'", "tiny-moe"),
        ("model:\n  preset: what", 2, "unknown preset", "known are tiny"),
        ("model:\n  preset: []", 2, "unknown preset", "known are tiny"),
        ("train:\n  lr: .inf", 2, "inf is not finite", "finite"),
        ("train:\n  betas: [0.9, .nan]", 2, "is not finite", "finite"),
        ("model:\n  num_heads: 6\n  num_kv_heads: 4", 3, "6 heads cannot share 4", "1, 2, 3, 6"),
        ("model:\n  head_dim: 33", 2, "33 is odd", "34"),
        ("model:\n  preset: tiny-moe\n  top_k: 9", 3, "9 of 8 experts", "at most 8"),
        ("model:\n  num_experts: 4\n  first_moe_layer: 4", 3, "no layer is MoE", "lower"),
        ("model:\n  vocab_size: 100", 2, "does not fit", "data.tokenizer"),
        ("data:\n  seq_len: 4096", 2, "exceed the model's max_seq_len", "shorten"),
        ("data:\n  sources: []", 2, "no sources", "stdlib"),
        ("data:\n  sources: [{path: a, weight: 0}]", 2, "all weights are 0", "above 0"),
        ("data:\n  phases:\n  - weights: [1]", 3, "'after' is missing", "no default"),
        (
            "data:\n  phases:\n  - {after: 1M, weights: [1, 2]}",
            3,
            "2 weights for 1 sources",
            "in their order",
        ),
        (
            "data:\n  phases:\n  - {after: 1M, weights: [1]}\n  - {after: 1M, weights: [1]}",
            4,
            "not after",
            "order",
        ),
        ("train:\n  tokens: 100", 2, "less than one step", "raise"),
        ("train:\n  micro_batch_size: 3", 2, "does not divide", "divisor"),
        ("train: {schedule: wsd, warmup: 0.5, decay: 0.6}", 1, "exceed the budget", "lower"),
        ("outer:\n  mode: strict\n  quorum: 2", 3, "waits for all", "elastic"),
        ("outer:\n  mode: elastic\n  delay: 3", 3, "when it is there", "strict"),
        ("outer:\n  mode: strict\n  delay: 51", 3, "longer than the 50 steps", "-1"),
        ("outer:\n  momentum: 1", 2, "1 is not a number < 1", "< 1"),
        ("alerts:\n  webhook: example.org", 2, "not a URL", "https"),
        ("name: My Run", 1, "not usable", "lower-case"),
        ("train:\n  lr: 1\n  lr: 2", 3, "given twice", "remove"),
        ("train:\n  lr: [1", 2, "not valid YAML", "indentation"),
        ("train:\n\tlr: 1", 2, "not valid YAML", "indentation"),
        ("- 1", 1, "not a mapping", "train:"),
        ("name: !!python/object:os.system x", 1, "not valid YAML", "line"),
        ("a: &x [*x]", 1, "nested too deeply", "shorten"),
    ],
)
def test_bad_runs_name_line_and_remedy(write, text, line, message, hint):
    path = write(text)
    error = failure(load_run, path)
    assert error.where == f"{path}:{line}"
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("sites: {}", 1, "no sites"),
        ("sites:\n  a:\n    chip: {cpu: 1}", 3, "unknown key 'chip' in sites.a"),
        ("sites:\n  a: {}\n  Jinan 2: {}", 3, "'Jinan 2' is not usable"),
        ("sites:\n  a:\n    chips: {cpu: 0}", 3, "0 is not a whole number >= 1"),
        ("sites:\n  a:\n    chips: {}", 3, "site 'a' has no chips"),
        ("sites:\n  a:\n    nodes: []", 3, "site 'a' has no chips"),
        ("sites:\n  a:\n    nodes: []\n    chips: {cpu: 1}", 4, "both `chips` and a list"),
        ("sites:\n  a:\n    link:\n      bandwidth: 1 GB", 4, "unknown unit 'GB'"),
        ("sites:\n  a:\n    link: {bandwidth: 0}", 3, "carries nothing"),
        ("server:\n  bind: 7000", 2, "7000 is not text"),
        ("server:\n  bind: localhost", 2, "not host:port"),
        ("server:\n  standby: host:99999", 2, "not host:port"),
    ],
)
def test_bad_fleets_name_the_line(write, text, line, message):
    path = write(text)
    error = failure(load_fleet, path)
    assert error.where == f"{path}:{line}"
    assert message in error.message


def test_all_problems_are_reported_at_once(write):
    error = str(failure(load_run, write("train:\n  lr: x\n  tokens: 1Q\nouter: {mode: strikt}\n")))
    assert ["run.yaml:2" in error, "run.yaml:3" in error, "run.yaml:4" in error] == [True] * 3


def test_overrides_win_in_order(write):
    run = load_run(
        write(RUN), ["train.lr=3e-4", "outer={inner_steps: 7}", "data.sources.1.weight=5", "train.lr=2e-4"]
    )
    assert run.train.lr == 2e-4
    assert (run.outer.inner_steps, run.outer.mode) == (7, "elastic")
    assert run.data.sources[1].weight == 5
    sites = load_fleet(write(FLEET), ["sites.jinan.nodes=4", "sites.spare.chips.cpu=2"]).sites
    assert (sites["jinan"].num_ranks, sites["spare"].num_ranks) == (32, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "key=value"),
        ("=3", "key=value"),
        ("train..lr=3", "key=value"),
        ("train.lr=x", "not a number"),
        ("train.lrr=1", "unknown key 'lrr'"),
        ("train.lr.high=1", "no part 'high'"),
        ("data.sources.9.weight=1", "no part '9'"),
        ("outer.mode=[", "not valid YAML"),
        ("model.top_k=9", "9 of 8"),
    ],
)
def test_a_bad_override_names_itself(write, override, message):
    error = failure(load_run, write(RUN), [override])
    assert error.where == f"--set {override}" or error.where.startswith(f"--set {override}:")
    assert message in error.message


def test_overrides_are_told_apart_by_their_first_key():
    assert split_overrides(["train.lr=1", "sites.a.nodes=2"]) == (["train.lr=1"], ["sites.a.nodes=2"])
    with pytest.raises(InputError, match="sites"):
        split_overrides(["site.a.nodes=2"])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(NotFoundError):
        load_run(tmp_path / "none.yaml")
    failure(load_run, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    failure(load_run, tmp_path / "binary.yaml")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    failure(load_run, tmp_path / "deep.yaml")
    (tmp_path / "deeper.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)
    failure(load_run, tmp_path / "deeper.yaml")


SECTIONS = ("", "model", "data", "train", "outer", "alerts")
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


@given(st.sampled_from(SECTIONS), WORDS, st.integers(0, 5))
def test_any_unknown_key_reports_its_line(tmp_path_factory, section, word, blank_lines):
    known = getattr(RunSpec(), section) if section else RunSpec()
    if word in (*known.__struct_fields__, "preset", "null", "true", "false"):
        return
    head = f"{section}:\n  " if section else ""
    text = "\n" * blank_lines + f"{head}{word}: 1\n"
    path = tmp_path_factory.mktemp("any") / "run.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)
    error = failure(load_run, path)
    assert error.where == f"{path}:{blank_lines + (2 if section else 1)}"
    assert f"unknown key '{word}'" in error.message


@given(WORDS, st.sampled_from(["bandwidth", "delay"]))
def test_any_unknown_unit_reports_its_line(tmp_path_factory, unit, name):
    if unit in Bandwidth.UNITS or unit in Seconds.UNITS:
        return
    path = tmp_path_factory.mktemp("any") / "fleet.yaml"
    path.write_text(f"sites:\n  a:\n    link:\n      {name}: 3 {unit}\n")
    assert failure(load_fleet, path).where == f"{path}:4"


PATHS = [
    *[(section, name) for section in SECTIONS[1:] for name in getattr(RunSpec(), section).__struct_fields__],
    *[
        ("sites", "a", *rest)
        for rest in ((), ("nodes",), ("chips",), ("chips", "cpu"), ("link",), ("link", "delay"))
    ],
    *[("model",), ("model", "preset"), ("name",), ("train",), ("sites",), ("server", "bind")],
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.text("ab1 .:%&*!{[#\"'\n\t\0é", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def only_errors_with_a_remedy(load, *arguments):
    """Any other exception than ours fails the test by itself."""
    problem = None
    try:
        load(*arguments)
    except IsthmusError as error:
        problem = error
    assert problem is None or (problem.where and problem.hint)


@given(st.sampled_from(PATHS), VALUES)
def test_whatever_stands_in_a_field_is_taken_or_refused_with_a_remedy(tmp_path_factory, path, value):
    folder = tmp_path_factory.mktemp("any")
    load = load_fleet if path[0] in FleetSpec.__struct_fields__ else load_run
    tree = value
    for key in reversed(path):
        tree = {key: tree}
    (folder / "file.yaml").write_text(yaml.safe_dump(tree))
    only_errors_with_a_remedy(load, folder / "file.yaml")
    only_errors_with_a_remedy(load, None, [f"{'.'.join(path)}={value}"])


@given(st.text(max_size=60) | st.text("abc:-[]{}#&*!|>'\"\n \t", max_size=60))
def test_whatever_a_file_holds_is_taken_or_refused_with_a_remedy(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "run.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    only_errors_with_a_remedy(load_run, path)
