from pathlib import Path

import pytest

from isthmus.spec.fields import describe
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, ServerSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.presets import presets
from isthmus.spec.reference import generated
from isthmus.spec.run import AlertSpec, DataSpec, OuterSpec, PhaseSpec, RunSpec, SourceSpec, TrainSpec
from isthmus.spec.schema import fleet_schema, run_schema

ROOT = Path(__file__).parents[2]
STRUCTS = (
    RunSpec, ModelSpec, DataSpec, SourceSpec, PhaseSpec, TrainSpec, OuterSpec, AlertSpec,
    FleetSpec, SiteSpec, NodeSpec, LinkSpec, ServerSpec,
)  # fmt: skip


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_field_has_a_docstring(struct):
    assert all(field.doc for field in describe(struct))


def test_schemas_and_reference_are_current():
    """If this fails: `python -m isthmus.spec.reference`."""
    for path, text in generated(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, path


def test_every_field_is_in_the_guide():
    guide = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    for struct in STRUCTS:
        for field in describe(struct):
            assert f"| `{field.name}` |" in guide


def test_every_preset_is_in_the_guide():
    guide = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in guide for name in presets)


def test_schemas_know_the_short_forms():
    run, fleet = run_schema()["properties"], fleet_schema()["properties"]
    assert {"enum": list(presets)} in run["model"]["anyOf"]
    assert {"type": "string"} in run["data"]["properties"]["sources"]["anyOf"]
    site = fleet["sites"]["additionalProperties"]["properties"]
    assert set(site) == {"nodes", "link", "chips"}
    assert {"type": "integer", "minimum": 1} in site["nodes"]["anyOf"]


def test_schemas_carry_ranges_choices_and_defaults():
    train = run_schema()["properties"]["train"]["properties"]
    assert train["lr"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Highest learning rate of the inner optimizer.",
        "default": 1e-3,
    }
    assert train["optimizer"]["enum"] == ["adamw", "sgd"]
    assert train["tokens"]["default"] == "2M"
    assert run_schema()["additionalProperties"] is False
