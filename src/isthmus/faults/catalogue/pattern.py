"""What a signature needs to be found fast: no look-around, and words that every line it hits contains.

A signature keeps to what RE2 understands too, so that a scanner may compile all of them into one automaton.
"""

import importlib
import re
from functools import cache
from typing import Any

MIN_LITERAL = 4
_GREEDY = ("MAX_REPEAT", "MIN_REPEAT")
_FORBIDDEN = {
    "ASSERT": "look-ahead or look-behind",
    "ASSERT_NOT": "look-ahead or look-behind",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a back-reference",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
}

Words = frozenset[str]
"""In small letters. Every line that a pattern hits contains one of them."""


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@cache
def literals(pattern: str) -> Words:
    """The longest such words; empty if the pattern may hit a line without any of MIN_LITERAL letters."""
    return _needed(_parsed(pattern))


def problem(pattern: str) -> str | None:
    """What is wrong with a signature; None if nothing is."""
    try:
        tree = _parsed(pattern)
    except re.error as error:
        return f"is not a regular expression: {error}"
    for name in _operators(tree):
        if name in _FORBIDDEN:
            return f"uses {_FORBIDDEN[name]}, which RE2 lacks"
    if not literals(pattern):
        return f"holds no run of {MIN_LITERAL} plain characters that every line it hits contains"
    return None


def _parsed(pattern: str) -> Any:
    """Python's own reading of a pattern: [(operator, argument)]. Its parser has no public name."""
    return importlib.import_module("re._parser").parse(pattern)


def _operators(tree: Any) -> set[str]:
    names: set[str] = set()
    for operator, argument in tree:
        names.add(str(operator))
        for part in _parts(str(operator), argument):
            names |= _operators(part)
    return names


def _parts(operator: str, argument: Any) -> list[Any]:
    """The patterns below one operator."""
    match operator:
        case "BRANCH":
            return argument[1]
        case "SUBPATTERN":
            return [argument[3]]
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return [argument[2]]
        case "ASSERT" | "ASSERT_NOT":
            return [argument[1]]
        case "ATOMIC_GROUP":
            return [argument]
        case _:
            return []


def _needed(tree: Any) -> Words:
    """Of all that is needed one after the other, what is most telling."""
    found: list[Words] = []
    run = ""
    for operator, argument in _flat(tree):
        if operator == "LITERAL":
            run += chr(argument).lower()
            continue
        found.append(_word(run))
        run = ""
        if operator == "BRANCH":
            found.append(_any_of([_needed(branch) for branch in argument[1]]))
        elif operator in _GREEDY and argument[0] > 0:
            found.append(_needed(argument[2]))
    return max([*found, _word(run)], key=_telling)


def _flat(tree: Any) -> list[tuple[str, Any]]:
    """Without groups, which change nothing of what is needed."""
    flat: list[tuple[str, Any]] = []
    for operator, argument in tree:
        name = str(operator)
        flat += _flat(argument[3]) if name == "SUBPATTERN" else [(name, argument)]
    return flat


def _word(run: str) -> Words:
    return frozenset([run]) if len(run) >= MIN_LITERAL else frozenset()


def _any_of(branches: list[Words]) -> Words:
    return frozenset().union(*branches) if all(branches) else frozenset()


def _telling(words: Words) -> int:
    return min(map(len, words), default=0)
