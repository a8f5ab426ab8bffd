"""What to do after an event, as people read it."""

from rich.console import Group, RenderableType
from rich.table import Table

from isthmus.errors import InputError
from isthmus.planner.replan.event import shown
from isthmus.planner.replan.option import Option, Replan
from isthmus.units import Bytes, Count, Seconds

COLUMNS = ("option", "", "step", "tokens/s", "to move", "stands", "tokens", "gained", "what it is")


def read_horizon(text: str) -> float:
    """Seconds; 0 for an empty text. Raises InputError if it is no time above 0."""
    if not text:
        return 0.0
    try:
        horizon = Seconds.parse(text)
    except ValueError as error:
        raise InputError(str(error), where="--horizon", hint="such as --horizon 24h") from None
    if not horizon:
        raise InputError("a horizon of no time", where="--horizon", hint="such as --horizon 24h")
    return horizon


def described(found: Replan) -> RenderableType:
    """The options with their prices, and what each site does under the chosen one."""
    events = "; ".join(shown(event) for event in found.events)
    title = f"after {events}: tokens in the next {Seconds(found.horizon_s)}"
    table = Table(title=title, title_justify="left")
    for column in COLUMNS:
        left = column in ("option", "", "what it is")
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "option")
    able = [option for option in found.options if option.sites]
    for option in able:
        table.add_row(option.name, *_figures(option), option.why)
    notes = [f"- cannot {each.name}: {each.why}" for each in found.options if not each.sites]
    return Group(table, *notes, _sites(found.chosen))


def _figures(option: Option) -> list[str]:
    sign = "-" if option.gained_tokens < 0 else "+"
    gained = f"{sign}{_count(abs(option.gained_tokens))}" if option.gained_tokens else "0"
    return [
        "CHOSEN" if option.chosen else "",
        str(Seconds(option.step_s or 0.0)),
        _count(option.tokens_per_s),
        str(Bytes(round(option.move_bytes))),
        str(Seconds(option.restart_s)),
        _count(option.tokens),
        gained,
    ]


def _count(value: float) -> str:
    return str(Count(round(value)))


def _sites(option: Option) -> Table:
    table = Table(title=f"{option.name}, by site", title_justify="left")
    for column in ("site", "step", "tokens/s", "stands", "later tokens/s", "tokens"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for each in option.sites:
        table.add_row(
            each.site,
            str(Seconds(each.step_s)),
            _count(each.tokens_per_s),
            str(Seconds(each.stands_s)),
            _count(each.later_tokens_per_s),
            _count(each.tokens),
        )
    return table
