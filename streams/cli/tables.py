"""Rows as a table for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WIDE = 250
"""Columns where nobody looks: a file or a pipe gets whole values, not 80 columns of them."""


def show(rows: Sequence[Mapping[str, Any]], *, title: str = "", empty: str = "nothing to show") -> None:
    """Print rows with the keys of the first as columns; lists one item a line, None as a dash."""
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    if not rows:
        console.print(empty)
        return
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in rows[0]:
        numeric = all(isinstance(row[column], int | float | None) for row in rows)
        first = column == next(iter(rows[0]))
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric else "left",
            no_wrap=first,
            overflow="fold",
        )
    for row in rows:
        # Text, not str: what comes from events must not be read as markup.
        table.add_row(*(Text(cell(value)) for value in row.values()))
    console.print(table)


def cell(value: object) -> str:
    """One value as text."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.1f}"
        case list() | tuple():
            return "\n".join(map(cell, value)) or "-"
        case _:
            return str(value)
