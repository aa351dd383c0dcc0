from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.runtime.blocks import blocks_of


@given(num_slots=st.integers(1, 200), block_size=st.integers(1, 50))
def test_blocks_cover_every_slot_once_and_in_order(num_slots, block_size):
    blocks = blocks_of("train", 3, num_slots, block_size)
    slots = [s for b in blocks for s in range(b.first_slot, b.first_slot + b.num_slots)]
    assert slots == list(range(num_slots))
    assert [b.index for b in blocks] == list(range(len(blocks)))
    assert {b.num_slots for b in blocks[:-1]} <= {block_size}
    assert {(b.phase, b.step) for b in blocks} == {("train", 3)}


@pytest.mark.parametrize(("step", "num_slots", "block_size"), [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_impossible_cuts_are_refused(step, num_slots, block_size):
    with pytest.raises(ValueError, match="must be >="):
        blocks_of("train", step, num_slots, block_size)
