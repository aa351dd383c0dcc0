from __future__ import annotations

from itertools import product

import pytest

from tests.grids import covering, pairs_of

ROWS = [row for row in product("abc", range(4), (True, False)) if row[:2] != ("a", 3)]


def test_every_pair_of_a_possible_row_is_in_a_chosen_one() -> None:
    chosen = covering(ROWS)
    assert set().union(*map(pairs_of, chosen)) == set().union(*map(pairs_of, ROWS))
    assert len(chosen) < len(ROWS) * 2 / 3
    assert chosen == [row for row in ROWS if row in chosen]
    assert covering(ROWS) == chosen


def test_a_row_that_is_always_taken_is_among_them_once() -> None:
    for row in ROWS:
        assert covering(ROWS, [row, row]).count(row) == 1
    with pytest.raises(KeyError):
        covering(ROWS, [("a", 3, True)])
