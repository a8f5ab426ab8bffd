"""(running plan, fleet, run, events) -> what to do: the options with their prices, and the new plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from isthmus.errors import InfeasibleError
from isthmus.planner.failures.assumptions import Assumptions
from isthmus.planner.plan import Plan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.replan.answers import (
    LAYOUT_KEPT,
    Answer,
    best_kept,
    changed,
    left_alone,
    planned_again,
)
from isthmus.planner.replan.band import band_of, packing_of
from isthmus.planner.replan.event import Event, shown
from isthmus.planner.replan.harm import step_of
from isthmus.planner.replan.move import Move, move_to_site
from isthmus.planner.replan.option import Option, Replan
from isthmus.planner.replan.price import Span, loop_of, price, rates
from isthmus.planner.replan.situation import Situation, situate, with_run
from isthmus.planner.replan.why import why_not, why_nothing
from isthmus.planner.search.answer import plan_of
from isthmus.planner.search.fleet import Group
from isthmus.planner.search.goal import choose
from isthmus.planner.search.pack import Packing
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec
from isthmus.units import Seconds

USUAL_HORIZON_S = 86_400.0
NOTHING = "do nothing"


@dataclass
class _Answers:
    """Of every group that trains, for one option."""

    name: str
    why: str
    answers: dict[str, Answer]
    outer: Plan | None = None
    """The plan, where H or codecs are other ones; None: as they run."""
    is_kept: bool = field(default=False)
    """Nothing is done."""


def replan(  # noqa: PLR0913 - as `situate`, and how far to look
    plan: Plan,
    fleet: FleetSpec,
    run: RunSpec,
    events: Sequence[Event],
    *,
    horizon_s: float = 0.0,
    assume: Assumptions | None = None,
    profiles: Mapping[str, Profile] | None = None,
) -> Replan:
    """The option with the most tokens by the horizon; of equal ones the one that changes least. Pure.

    Args:
        plan: with layouts, as `best_plan` makes it.
        fleet: that the plan was made for, without the events (with a site that is back).
        horizon_s: 0: the budget's time, at most a day.

    Raises InputError where plan, fleet and events do not go together, InfeasibleError if no site is left.
    """
    at = situate(plan, fleet, run, events, assume, profiles)
    span = _span(at, horizon_s)
    tried, misses = _tried(at, run)
    options = [_priced(at, each, span) for each in tried]
    best = max(range(len(options)), key=lambda index: (options[index].tokens, -index))
    still = options[0].tokens
    options = [
        replace(each, chosen=index == best, gained_tokens=each.tokens - still)
        for index, each in enumerate(options)
    ]
    options += [Option(name=name, why=why) for name, why in misses.items()]
    return Replan(
        events=list(events),
        horizon_s=span.horizon_s,
        options=options,
        plan=_plan(at, tried[best], options[best]),
    )


def _span(at: Situation, horizon_s: float) -> Span:
    steps = {head: step_of(at.job, bands, at.lines) for head, bands in at.before.items()}
    budget_s = at.run.train.tokens / sum(rates(loop_of(at.plan, at.after, at.run), steps).values())
    horizon_s = horizon_s or min(USUAL_HORIZON_S, budget_s)
    return Span(horizon_s, min(horizon_s, at.ends_s or horizon_s))


def _tried(at: Situation, run: RunSpec) -> tuple[list[_Answers], dict[str, str]]:
    """The options, from the least change to the largest, and those that cannot be."""
    alone = {head: left_alone(at, head) for head in at.groups}
    tried = [_Answers(NOTHING, why_nothing(at, alone), alone, is_kept=True)]
    misses: dict[str, str] = {}
    known = {head: [alone[head]] for head in at.hurt}
    for name, (answer, why) in LAYOUT_KEPT.items():
        found = {head: answer(at, head) for head in at.hurt if at.damages.get(head)}
        kept = {head: each for head, each in found.items() if each is not None}
        if kept:
            tried.append(_Answers(name, why, alone | kept))
        elif found:
            misses[name] = why_not(name)
        for head, each in kept.items():
            known[head].append(each)
    again = _again(at, alone, known)
    if again is not None:
        tried.append(again)
    else:
        misses["plan the sites again"] = "no layout of the sites concerned is faster"
    for option in (_everything(at, run, tried), _left_out(at, tried)):
        tried += [option] if isinstance(option, _Answers) else []
        misses |= option if isinstance(option, dict) else {}
    return tried, misses


def _again(at: Situation, alone: Mapping[str, Answer], known: Mapping[str, list[Answer]]) -> _Answers | None:
    """A new layout of the groups concerned, and of sites that come back; the others keep theirs."""
    found: dict[str, Answer] = {}
    for head in at.hurt:
        limit_s, bands = best_kept(at, head, known[head])
        answer = planned_again(at, head, limit_s, bands)
        if answer is not None:
            found[head] = answer
    for site in at.back:
        if not any(site in sites for sites in at.groups.values()):
            found |= _joining(at, site)
    why = "a new layout of the sites concerned; the others keep theirs"
    return _Answers("plan the sites again", why, {**alone, **found}) if found else None


def _joining(at: Situation, site: str) -> dict[str, Answer]:
    packing = at.found.pack((site,))
    if packing is None:
        return {}
    answer = changed(at, site, [band_of(each) for each in packing.templates])
    weights = move_to_site(at.after, site, at.plan.num_params)
    within = Move(0.0, answer.move.seconds)
    move = weights.plus(within)
    return {site: answer._replace(move=move, stands_s=at.assume.restart + move.seconds)}


def _everything(at: Situation, run: RunSpec, tried: Sequence[_Answers]) -> _Answers | dict[str, str]:
    """Groups, H and codecs chosen anew. Sites that the event does not touch keep their layout, which was the
    best of them."""
    name = "plan everything again"
    found = with_run(at, run)
    known = _fastest(at, tried)
    for head, answer in known.items():
        packing = _packing(at, head, answer)
        if packing is not None and all(site in at.pools for site in _sites(at, head)):
            found.packings[_sites(at, head)] = packing
    try:
        groups = choose(found)
        plan = plan_of(found, at.after, groups) if groups else None
    except InfeasibleError as error:
        return {name: error.message}
    if plan is None:
        return {name: "the model fits no site, and no pipeline over the sites"}
    kept = {site.name for site in plan.sites}
    answers = {group.sites[0]: _as_answer(at, group, known) for group in groups if group.sites[0] in kept}
    if plan.inner_steps == at.plan.inner_steps and plan.codec == at.plan.codec and _same(answers, tried):
        return {name: f"it would be the same as to {_same(answers, tried)}"}
    why = f"H {plan.inner_steps}, {plan.codec}; {len(answers)} site{'s' * (len(answers) > 1)}"
    # H is the same for all sites, so all of them start again.
    moved = {
        head: each._replace(stands_s=max(each.stands_s, at.assume.restart)) for head, each in answers.items()
    }
    return _Answers(name, why, moved, outer=plan)


def _fastest(at: Situation, tried: Sequence[_Answers]) -> dict[str, Answer]:
    """Of each group the answer with the least step that trains before a repair, the first of equal ones."""
    known: dict[str, Answer] = {}
    for head, answer in (item for each in tried for item in each.answers.items()):
        ready = answer.stands_s < at.repair_s and head not in at.gone
        if ready and (head not in known or _step(at, answer) < _step(at, known[head])):
            known[head] = answer
    return known


def _step(at: Situation, answer: Answer) -> float:
    return step_of(at.job, answer.bands, at.lines)


def _same(answers: Mapping[str, Answer], tried: Sequence[_Answers]) -> str:
    bands = {head: answer.bands for head, answer in answers.items()}
    same = [each.name for each in tried if {h: a.bands for h, a in each.answers.items()} == bands]
    return same[0] if same else ""


def _as_answer(at: Situation, group: Group, known: Mapping[str, Answer]) -> Answer:
    head = group.sites[0]
    if head in known and group.sites == _sites(at, head):
        return known[head]
    return changed(at, head, [band_of(each) for each in group.packing.templates])


def _left_out(at: Situation, tried: Sequence[_Answers]) -> _Answers | dict[str, str]:
    """Without the groups concerned. In strict mode the others then wait for them no more."""
    name = "leave the site out"
    concerned = {*at.hurt, *at.gone}
    rest = {head: each for head, each in tried[0].answers.items() if head not in concerned}
    if not concerned or not rest:
        return {}
    if at.plan.mode == "strict":
        rest = {head: each._replace(stands_s=at.assume.restart) for head, each in rest.items()}
    return _Answers(name, f"without {', '.join(sorted(concerned))}", rest)


def _sites(at: Situation, head: str) -> tuple[str, ...]:
    return at.groups.get(head, (head,))


def _packing(at: Situation, head: str, answer: Answer) -> Packing | None:
    """With a bound on its step: the running plan's gap, below what the group took before."""
    packing = packing_of(at.job, answer.bands, at.lines)
    if packing is None:
        return None
    gap = at.plan.expected.gap if at.plan.expected else 0.0
    base_s = step_of(at.job, at.before[head], at.lines) if head in at.before else packing.step_s
    return dataclasses.replace(packing, bound_s=(1 - gap) * min(base_s, packing.step_s))


def _priced(at: Situation, tried: _Answers, span: Span) -> Option:
    loop = loop_of(tried.outer or at.plan, at.after, at.run)
    step_s = {head: step_of(at.job, each.bands, at.lines) for head, each in tried.answers.items()}
    later = _later(at, step_s) if tried.is_kept else {}
    stands_s = {head: each.stands_s for head, each in tried.answers.items()}
    sites = price(loop, step_s, stands_s, later, span)
    per_s = sum(each.tokens_per_s for each in sites if each.stands_s < span.horizon_s)
    moves = [each.move for each in tried.answers.values()]
    return Option(
        name=tried.name,
        why=tried.why,
        step_s=len(sites) * loop.step_tokens / sum(each.tokens_per_s for each in sites),
        tokens_per_s=per_s,
        move_bytes=sum(move.num_bytes for move in moves),
        move_s=max(move.seconds for move in moves),
        restart_s=max(each.stands_s for each in sites),
        tokens=sum(each.tokens for each in sites),
        sites=sites,
    )


def _later(at: Situation, step_s: Mapping[str, float]) -> dict[str, float]:
    """Of what is left alone, once the event's state has ended: as before it."""
    if not at.ends_s:
        return {}
    before = {head: step_of(at.job, at.before[head], at.old_lines) for head in step_s}
    return rates(loop_of(at.plan, at.fleet, at.run), before)


def _plan(at: Situation, tried: _Answers, option: Option) -> Plan:
    if tried.is_kept:
        return at.plan
    why = f"{option.name}, after {'; '.join(shown(each) for each in at.events)}: {option.why}"
    if tried.outer is not None:
        return replace(tried.outer, reasons=[why, *tried.outer.reasons])
    packings = {head: _packing(at, head, each) for head, each in tried.answers.items()}
    groups = [Group(_sites(at, head), each) for head, each in packings.items() if each is not None]
    plan = plan_of(at.found, at.after, groups)
    gain = f"{option.gained_tokens:.4g} tokens more than doing nothing; stands {Seconds(option.restart_s)}"
    return replace(plan, reasons=[why, gain, *plan.reasons])
