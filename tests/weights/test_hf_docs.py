"""docs/huggingface.md names every family and every field that the code knows."""

from pathlib import Path

from isthmus.weights.hf.families import FAMILIES, FIXED, HARMLESS, ROPE

PAGE = (Path(__file__).parents[2] / "docs/huggingface.md").read_text()


def test_all_fields_are_documented():
    names = {*FAMILIES, *FIXED, *HARMLESS, *ROPE}
    for family in FAMILIES.values():
        names |= {
            family.model_type,
            *family.fields,
            *family.own,
            *family.fixed,
            *family.harmless,
            *family.aliases,
        }
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_no_field_is_of_two_kinds():
    for family in FAMILIES.values():
        kinds = [{*FIXED, *family.fixed}, {*family.fields}, {*family.own}, {*HARMLESS, *family.harmless}]
        assert len(set().union(*kinds)) == sum(map(len, kinds)), family.name
        assert family.defaults.keys() <= {*family.fields, *ROPE, "use_sliding_window"}, family.name
