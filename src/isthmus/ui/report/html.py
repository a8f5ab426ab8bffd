"""Small pieces of HTML. Every function takes plain text and returns markup with that text escaped."""

from collections.abc import Sequence
from html import escape

COLOURS = 8


def colour(index: int) -> str:
    """The CSS colour of a site."""
    return f"var(--s{index % COLOURS})"


def card(name: str, value: str, more: str = "", hero: bool = False) -> str:
    figure, _, unit = value.partition(" ")
    return (
        f'<div class="card{" hero" if hero else ""}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(figure)}{f" <small>{escape(unit)}</small>" if unit else ""}</div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def figure(title: str, chart: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    """`chart` is markup; legend: (name, CSS colour)."""
    keys = "".join(f'<span><i style="background:{tint}"></i>{escape(name)}</span>' for name, tint in legend)
    return (
        f'<figure><figcaption>{escape(title)}<span class="legend">{keys}</span></figcaption>{chart}</figure>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = ()) -> str:
    """The first column is left-aligned, the others are numbers unless named in `text_columns`."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = (' class="text"' if i in text_columns else "" for i in range(len(row)))
        return "".join(
            f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, row, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def measures(sites: Sequence[str], rows: Sequence[tuple[str, Sequence[str], str]], total: str) -> str:
    """A row per measure, a column per site and one for the whole run. The row named `total` stands out."""
    tints = "".join(
        f'<th><span class="swatch" style="background:{colour(i)}"></span>{escape(name)}</th>'
        for i, name in enumerate(sites)
    )
    kinds = {total: ' class="total"'}
    body = "".join(
        f"<tr{kinds.get(name, '')}><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(value)}</td>" for value in of_sites)
        + f'<td class="whole">{escape(of_run)}</td></tr>'
        for name, of_sites, of_run in rows
    )
    return (
        f'<div class="panel scroll"><table><thead><tr><th></th>{tints}<th class="whole">whole run</th></tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def stack(parts: Sequence[tuple[str, float, str]]) -> str:
    """One bar of (name, amount, CSS class) parts."""
    return (
        '<div class="stack">'
        + "".join(
            f'<div class="{kind}" style="flex:{amount:.4f}" title="{escape(name)}"></div>'
            for name, amount, kind in parts
            if amount > 0
        )
        + "</div>"
    )


def panel(title: str, *parts: str) -> str:
    return f'<div class="panel"><h3>{escape(title)}</h3>{"".join(parts)}</div>'


def details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
