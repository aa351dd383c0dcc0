"""Numbers as a user reads them. Needs neither torch nor Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dmeta.addresses import redacted
from dmeta.quoting import printable


def duration(seconds: float) -> str:
    """``3:07`` (minutes and seconds) or ``1:03:07`` (with hours)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def a_few(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c, and 11 more``: the first ones, of which there are so many that few would do."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return ", ".join([*names[:most], f"and {len(names) - most} more"])


def safe_text(text: str, console: Console) -> Text:
    """Lines of text as a terminal can show them, whatever is in them.

    Wherever they are from (files that others wrote, names of folders): no control characters but
    the ends of lines, no markup, no passwords and keys of addresses, and +- for the sign that not
    every terminal's encoding has.
    """
    safe = "\n".join(printable(line) for line in redacted(text).split("\n"))
    return Text(safe.replace("±", plus_minus(console)))


def next_lines(command: str) -> list[str]:
    """The command to try next; one that will not do as it is shown says why."""
    hidden = [f"{'':<10}passwords and keys in addresses are shown as ***"]
    return [f"{'next':<10}{command}", *(hidden if redacted(command) != command else [])]


def plus_minus(console: Console) -> str:
    """The sign, or +- where the terminal's encoding lacks it."""
    try:
        "±".encode(console.encoding)
    except UnicodeEncodeError:
        return "+-"
    return "±"


FRACTION = "fraction"
"""The unit of a share, which is shown in percent."""

NOT_SHOWN = frozenset({"", "target", "target squared"})
"""Units of which nothing is shown: none, and those of the data."""


def score(unit: str, mean: float, ci95: float | None = None, decimals: int = 1) -> str:
    """A score as a user reads it: ``94.2±1.1%``, ``0.123±0.011 nats``, ``0.123±0.011``.

    Args:
        unit: of the metric: ``fraction`` is shown in percent, anything else with 3 significant
            digits, and the unit after them unless it is that of the data.
        mean: of the tasks.
        ci95: half-width of its 95% confidence interval; NaN: it has none, which is shown.
        decimals: of a percentage.
    """
    if ci95 is not None and math.isnan(ci95):
        return f"{score(unit, mean, decimals=decimals)} (no interval)"
    if unit == FRACTION:
        interval = "" if ci95 is None else f"±{100 * ci95:.{decimals}f}"
        return f"{100 * mean:.{decimals}f}{interval}%"
    interval = "" if ci95 is None else f"±{digits(ci95, 2)}"
    return digits(mean, 3) + interval + ("" if unit in NOT_SHOWN else f" {unit}")


def digits(value: float, significant: int) -> str:
    """`value` with so many significant digits, never fewer than its whole part has."""
    if abs(value) >= 10**significant:
        return f"{value:.0f}"
    return f"{value:#.{significant}g}".rstrip(".")
