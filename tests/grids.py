"""Chosen rows of a grid, instead of its cross product."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[Hashable, ...])
Pair = tuple[int, Hashable, int, Hashable]


def pairs_of(row: tuple[Hashable, ...]) -> set[Pair]:
    """Every two values of a row, with their columns."""
    return {(i, a, j, b) for (i, a), (j, b) in combinations(enumerate(row), 2)}


def covering(rows: Iterable[Row], always: Iterable[Row] = ()) -> list[Row]:
    """Some of the rows, in their order, with every pair of values that is in any of them.

    Greedy: among equally good rows the first is taken, so the cheapest should come first.

    Args:
        rows: all combinations that are possible.
        always: those of them that are taken in any case, because they are known to be risky.
    """
    pairs = {row: pairs_of(row) for row in rows}
    chosen = set(always)
    missing = set().union(*pairs.values()).difference(*(pairs[row] for row in chosen))
    while missing:
        best = max(pairs, key=lambda row: len(pairs[row] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return [row for row in pairs if row in chosen]
