"""`isthmus inject`: break a run on purpose, to see that it heals."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from isthmus.errors import InputError, IsthmusError, NotFoundError
from isthmus.faults.inject.kinds import KINDS, Kind, KindName, refusal
from isthmus.faults.inject.messages import InjectRequest
from isthmus.faults.inject.schedule import Planned, Schedule, expand, load_schedule
from isthmus.heal.inject import act, ask, listens
from isthmus.journal.fold import fold
from isthmus.journal.reader import read
from isthmus.rundir import RunDir
from isthmus.spec.suggest import nearest
from isthmus.train.checkpoint import CHECKPOINTS
from isthmus.ui import tables
from isthmus.ui.plans import read_plan

RUNS = Path("runs")
FRESH_S = 60.0
"""A run whose journal is no older may well be going on."""


class Outcome(msgspec.Struct, frozen=True):
    fault: Planned
    ok: bool
    text: str


def inject(  # noqa: PLR0913 (one for each option)
    kind: str = "",
    *,
    run: Path | None = None,
    site: str = "",
    rank: int = 0,
    at_step: int | None = None,
    value: float = 0.0,
    schedule: Path | None = None,
    list_: bool = False,
    json_: bool = False,
) -> None:
    """Break a run on purpose: a rank, its numbers, its files, its link.

    For drills: what the run loses by it is lost. A finished run is refused.

    Parameters
    ----------
    kind
        What happens; --list has all kinds.
    run
        The run's folder; by default the only run under runs/ that is going on.
    site
        Where; may be left out where the run has one site here.
    rank
        Which rank of the site, from 0.
    at_step
        Once the rank has done so many optimizer steps; by default at once.
    value
        What the kind takes (seconds, a factor, ...); 0 is its default.
    schedule
        A faults.yaml with many faults, instead of one kind.
    list_
        Print the kinds, and do nothing.
    json_
        Print one JSON object.
    """
    if list_:
        _list(json_)
        return
    if bool(kind) == bool(schedule):
        raise InputError(
            "what is to happen?", where="inject", hint="give one kind of `--list`, or a --schedule"
        )
    step = -1 if at_step is None else at_step
    if kind:
        _check(kind, value, step)
    path = run or only_running(RUNS)
    place = RunDir.existing(path)
    refuse_finished(path)
    num_ranks = {each.name: each.num_ranks for each in read_plan(place.plan).sites}
    usual = _usual_site(place, site, num_ranks)
    if schedule:
        faults = _scheduled(schedule, num_ranks, usual)
    else:
        faults = [_single(kind, usual, rank, step, value, num_ranks)]
    print(f"warning: {_faults(len(faults))} on purpose, in {path}", file=sys.stderr)
    _report(path, _make_all(place, faults), json_)


def only_running(root: Path) -> Path:
    """The one run below `root` that is going on. NotFoundError if there is none or more than one."""
    found = [path.parent for path in sorted(root.glob("*/run.yaml")) if is_running(path.parent)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(str, found))
    raise NotFoundError(
        f"more than one run is going on: {names}" if found else "no run is going on here",
        where=str(root),
        hint="say which with --run FOLDER",
    )


def is_running(path: Path) -> bool:
    """An agent of it answers, or its journal is fresh; and it has not finished."""
    try:
        view = fold(read(path))
    except IsthmusError:
        return False
    if view.finished:
        return False
    agents = (path / "sites").glob("*/agent.address")
    return time.time() - view.last_s < FRESH_S or any(map(listens, agents))


def refuse_finished(path: Path) -> None:
    view = fold(read(path))
    if view.finished:
        raise InputError(
            f"the run has finished ({view.finished}): there is nothing to break",
            where=str(path),
            hint="start a run for the drill, for example `isthmus demo`",
        )


def _usual_site(run: RunDir, site: str, num_ranks: dict[str, int]) -> str:
    """The site that is meant where none is named; '' if there are several here."""
    if site and site not in num_ranks:
        hint = nearest(site, num_ranks) or f"the sites are {', '.join(num_ranks)}"
        raise NotFoundError(f"the run has no site '{site}'", where="--site", hint=hint)
    here = [name for name in num_ranks if run.site(name).exists()] or list(num_ranks)
    return site or (here[0] if len(here) == 1 else "")


def _check(kind: str, value: float, at_step: int) -> None:
    if why := refusal(kind, value, at_step=at_step):
        taken = KINDS[kind].value if kind in KINDS else nearest(kind, KINDS)
        raise InputError(why, where="inject", hint=taken or "`isthmus inject --list` has all kinds")


def _single(
    kind: str, site: str, rank: int, at_step: int, value: float, num_ranks: dict[str, int]
) -> Planned:
    if not site:
        raise InputError("which site?", where="--site", hint=f"one of {', '.join(num_ranks)}")
    if not 0 <= rank < num_ranks[site]:
        raise InputError(
            f"site '{site}' has no rank {rank}",
            where="--rank",
            hint=f"ranks are counted from 0 to {num_ranks[site] - 1}",
        )
    name = msgspec.convert(kind, KindName)
    return Planned(kind=name, site=site, rank=rank, at_step=at_step, value=value or KINDS[kind].default)


def _scheduled(path: Path, num_ranks: dict[str, int], usual: str) -> list[Planned]:
    known = {**num_ranks, "": num_ranks[usual]} if usual else num_ranks
    schedule = load_schedule(path, known)
    faults: list[Planned] = []
    for site, count in num_ranks.items():
        here = {site, ""} if site == usual else {site}
        part = Schedule(
            faults=[entry for entry in schedule.faults if entry.site in here],
            random=[entry for entry in schedule.random if entry.site in here],
        )
        planned = expand(part, schedule.seed, count)
        faults += [msgspec.structs.replace(fault, site=site) for fault in planned]
    return faults


def _make_all(run: RunDir, faults: Sequence[Planned]) -> list[Outcome]:
    """Faults of files and links that wait for nothing are made here, the others by the sites' agents."""
    outcomes: list[Outcome] = []
    asked: dict[str, list[Planned]] = {}
    for fault in faults:
        if KINDS[fault.kind].actor in ("files", "relay") and _is_due(fault):
            outcomes.append(_act(run, fault, alone=len(faults) == 1))
        else:
            asked.setdefault(fault.site, []).append(fault)
    for site, planned in asked.items():
        replies = ask(run.agent_address(site), [_request(fault) for fault in planned])
        outcomes += [
            Outcome(fault, reply.ok, reply.text) for fault, reply in zip(planned, replies, strict=True)
        ]
    return outcomes


def _act(run: RunDir, fault: Planned, *, alone: bool) -> Outcome:
    """What cannot be done is an error where it is all that was asked for."""
    folder = run.site(fault.site) / CHECKPOINTS
    try:
        return Outcome(fault, True, act(fault.kind, fault.value, run.relays(fault.site), folder))
    except IsthmusError as error:
        if alone:
            raise
        return Outcome(fault, False, error.message)


def _is_due(fault: Planned) -> bool:
    return fault.at_step < 0 and fault.at_s < 0 and not fault.at


def _request(fault: Planned) -> InjectRequest:
    return InjectRequest(
        rank=fault.rank, kind=fault.kind, at_step=fault.at_step, at_s=fault.at_s, at=fault.at,
        value=fault.value,
    )  # fmt: skip


def _report(path: Path, outcomes: list[Outcome], as_json: bool) -> None:
    if as_json:
        told = [{**msgspec.to_builtins(each.fault), "ok": each.ok, "text": each.text} for each in outcomes]
        print(msgspec.json.encode({"run": str(path), "faults": told}).decode())
    else:
        for each in outcomes:
            print(f"{'accepted' if each.ok else 'refused '}  {describe(each.fault)}: {each.text}")
    refused = [each for each in outcomes if not each.ok]
    if refused:
        raise IsthmusError(
            f"{len(refused)} of {_faults(len(outcomes))} refused",
            where=str(path),
            hint=f"the first, {describe(refused[0].fault)}: {refused[0].text}",
        )


def _faults(count: int) -> str:
    return f"{count} fault{'s' * (count != 1)}"


def describe(fault: Planned) -> str:
    """`kill, rank 1 of jinan, at step 20`"""
    kind = KINDS[fault.kind]
    words = [fault.kind + f" {fault.value:g}" * bool(kind.value)]
    words.append(f"rank {fault.rank} of {fault.site}" if kind.actor == "rank" else fault.site)
    words += [f"at step {fault.at_step}"] * (fault.at_step >= 0)
    words += [f"in {fault.at_s:g} s"] * (fault.at_s >= 0)
    words += [f"when {fault.at}"] * bool(fault.at)
    return ", ".join(words)


def _list(as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode({"kinds": [_facts(kind) for kind in KINDS.values()]}).decode())
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "what happens", "class", "value"):
        table.add_column(column, no_wrap=column in ("kind", "class"))
    for kind in KINDS.values():
        default = f" ({kind.default:g})" if kind.default else ""
        table.add_row(kind.name, kind.what, kind.fault, f"{kind.value}{default}")
    tables.console().print(table)


def _facts(kind: Kind) -> dict[str, object]:
    return {
        "kind": kind.name, "what": kind.what, "class": kind.fault, "value": kind.value,
        "default": kind.default, "by": kind.actor, "waits": kind.roams,
    }  # fmt: skip
