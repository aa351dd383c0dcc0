"""The sum of a step's gradients: the same bits whoever takes which part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dmeta.bilevel.flat import to_wire
from dmeta.runtime.reduction import FAN_IN, added, groups, total_of, widened


def gradients(count: int, seed: int = 0) -> list[Any]:
    """Of so different sizes that the order of addition shows."""
    draw = np.random.default_rng(seed)
    scales = 10.0 ** draw.integers(-4, 5, (count, 50))
    return list((draw.standard_normal((count, 50)) * scales).astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, FAN_IN])
def test_few_are_added_in_their_order(count: int) -> None:
    found = gradients(count)
    total = found[0].copy()
    for gradient in found[1:]:
        total = total + gradient
    assert total_of(found).tobytes() == total.tobytes()


def test_many_are_added_as_the_tree_says() -> None:
    found = gradients(20)
    by_hand = added([added(found[:8]), added(found[8:16]), added(found[16:])])
    assert total_of(found).tobytes() == by_hand.tobytes()
    assert total_of(found).tobytes() != added(found).tobytes()


@given(count=st.integers(1, 700), num_levels=st.integers(0, 4))
def test_whoever_takes_some_levels_changes_no_bit(count: int, num_levels: int) -> None:
    found = gradients(count)
    level = found
    for _ in range(num_levels):
        level = [added([level[i] for i in group]) for group in groups(len(level))]
    assert total_of(level).tobytes() == total_of(found).tobytes()


@given(st.integers(0, 200))
def test_every_member_is_in_one_group(count: int) -> None:
    assert [i for group in groups(count) for i in group] == list(range(count))


def test_what_came_is_not_changed() -> None:
    found = gradients(3)
    for gradient in found:
        gradient.flags.writeable = False
    added(found)
    found[0] = found[0].view()  # as an array out of shared memory: not the one that was put there
    alone = total_of(found[:1])
    alone += 1
    assert not np.shares_memory(alone, found[0])


@given(hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_a_vector_arrives_as_it_was_or_rounded_to_bfloat16(array: Any) -> None:
    whole = to_wire(torch.from_numpy(array), "float32")
    assert widened(whole).tobytes() == array.tobytes()
    half = to_wire(torch.from_numpy(array), "bfloat16")
    assert half.nbytes == whole.nbytes // 2
    half.flags.writeable = False
    back = widened(half)
    assert back.dtype == np.float32
    rounded = torch.from_numpy(array).bfloat16().float().numpy()
    assert np.nan_to_num(back, nan=0).tobytes() == np.nan_to_num(rounded, nan=0).tobytes()
    assert np.array_equal(np.isnan(back), np.isnan(array))


def test_gradients_of_half_the_bytes_are_added_in_float32() -> None:
    found = [to_wire(torch.from_numpy(gradient), "bfloat16") for gradient in gradients(3)]
    assert added(found).tobytes() == added([widened(half) for half in found]).tobytes()
