from pathlib import Path
from typing import get_args

import pytest

from isthmus.faults.inject.kinds import KINDS, KindName, refusal
from isthmus.faults.inject.reference import generated
from isthmus.faults.inject.schedule import FaultSpec, RandomSpec, Schedule
from isthmus.faults.terms import FaultClass
from isthmus.spec.fields import describe

ROOT = Path(__file__).parents[3]


def test_the_list_is_closed_and_each_has_its_class():
    assert tuple(KINDS) == get_args(KindName)
    for kind in KINDS.values():
        assert kind.fault in get_args(FaultClass)
        assert kind.what
        assert bool(kind.value) == bool(kind.default) or kind.name == "oom"
        assert not kind.instant or kind.roams


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "oom"])
def test_the_default_is_a_value_it_takes(kind: str):
    assert refusal(kind, 0.0) == ""
    assert refusal(kind, KINDS[kind].default) == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("kil", 0.0), "no fault"),
        (("kill", 1.0), "no value"),
        (("leak", -1.0), "below 0"),
        (("truncate", 1.5), "too much"),
        (("link_slow", 0.1), "faster"),
        (("oom", 0.0), "limit"),
        (("nan", 0.0, "saving"), "cannot wait"),
        (("link_cut", 0.0, "", 5), "by steps"),
    ],
)
def test_what_cannot_be_is_refused_and_why(arguments: tuple, word: str):
    assert word in refusal(*arguments)


def test_the_page_and_the_schema_are_current():
    """If this fails: `python -m isthmus.faults.inject.reference`."""
    for path, text in generated(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, path


@pytest.mark.parametrize("struct", [Schedule, FaultSpec, RandomSpec])
def test_every_field_has_a_docstring(struct: type):
    assert all(field.doc for field in describe(struct))
