from msgspec.structs import replace

from isthmus.spec.dump import changed, plain
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec, TrainSpec
from isthmus.units import Count


def test_only_what_differs_is_shown():
    assert changed(RunSpec()) == {}
    run = replace(RunSpec(), train=TrainSpec(tokens=Count(3_000_000), betas=(0.8, 0.9)))
    assert changed(run) == {"train": {"tokens": "3M", "betas": [0.8, 0.9]}}


def test_a_preset_is_shown_by_its_fields():
    assert changed(load_run(None, ["model=tiny-moe"]))["model"]["num_experts"] == 8


def test_quantities_keep_their_unit():
    assert plain(RunSpec())["outer"]["site_timeout"] == "30 s"
