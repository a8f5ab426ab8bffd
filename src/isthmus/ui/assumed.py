"""`--assume name=value`: what no file says."""

from collections.abc import Sequence
from typing import Any

from isthmus.errors import InputError
from isthmus.planner.failures.assumptions import Assumptions
from isthmus.spec.build import Problem, build


def read_assumptions(texts: Sequence[str]) -> Assumptions:
    """Raises InputError for what is not known or no quantity."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("not of the form name=value", where=f"--assume {text}", hint="such as mtbf=90d")
        values[name] = _number(value)
    problems: list[Problem] = []
    assumed = build(Assumptions, values, (), problems)
    for problem in problems:
        raise InputError(problem.message, where="--assume", hint=problem.hint)
    return assumed


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
