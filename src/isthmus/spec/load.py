"""fleet.yaml and run.yaml -> frozen structs. Every error names file, line and remedy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from isthmus.errors import InputError
from isthmus.spec.build import Problem, build
from isthmus.spec.check import check_fleet, check_run
from isthmus.spec.document import Document, read_document
from isthmus.spec.dump import to_yaml as to_yaml
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec
from isthmus.spec.short import fill_preset, lengthen_fleet, lengthen_run
from isthmus.spec.suggest import nearest

Spec = TypeVar("Spec", bound=msgspec.Struct)


def load_run(path: Path | str | None = None, overrides: Sequence[str] = ()) -> RunSpec:
    """The run in `path` (None: all defaults) with overrides such as `train.lr=3e-4` applied in order.

    NotFoundError if there is no such file; InputError, with all problems found, if anything in it is wrong.
    """
    document = read_document(Path(path) if path else None)
    lengthen_run(document)
    for override in overrides:
        document.override(override)
        lengthen_run(document)
    fill_preset(document)
    return finish(document, RunSpec, check_run)


def load_fleet(path: Path | str | None = None, overrides: Sequence[str] = ()) -> FleetSpec:
    """The fleet in `path` (None: one local site with one CPU rank), as `load_run` does."""
    document = read_document(Path(path) if path else None)
    for override in overrides:
        document.override(override)
    lengthen_fleet(document)
    return finish(document, FleetSpec, check_fleet)


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """(those of the run, those of the fleet), told apart by their first key, which the files do not share."""
    run: list[str] = []
    fleet: list[str] = []
    for override in overrides:
        head = override.partition("=")[0].split(".")[0].strip()
        known = (*RunSpec.__struct_fields__, *FleetSpec.__struct_fields__)
        if head not in known:
            hint = nearest(head, known) or f"begin with one of {', '.join(known)}"
            raise InputError(f"unknown key '{head}'", where=f"--set {override}", hint=hint)
        (fleet if head in FleetSpec.__struct_fields__ else run).append(override)
    return run, fleet


def finish(document: Document, kind: type[Spec], check: Callable[[Spec], Iterator[Problem]]) -> Spec:
    """The document as a struct. InputError, with all problems found, if anything in it is wrong."""
    problems: list[Problem] = []
    spec = build(kind, document.tree, (), problems)
    problems = problems or list(check(spec))
    if problems:
        errors = [
            InputError(each.message, where=document.where(each.key), hint=each.hint) for each in problems
        ]
        first, others = errors[0], "".join(f"\n{error}" for error in errors[1:])
        raise InputError(first.message, where=first.where, hint=f"{first.hint}{others}")
    return spec
