"""The flat vector: there and back, refusals, and a digest of everything in it."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from dmeta.bilevel.flat import Layout, sha256_of

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
arrays = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape))
params = st.dictionaries(st.text(max_size=6), arrays, min_size=1, max_size=5).map(
    lambda found: {name: torch.from_numpy(np.array(array)) for name, array in found.items()}
)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.slow
@given(params)
def test_unflatten_undoes_flatten_to_the_bit(given_params: dict[str, Tensor]) -> None:
    layout = Layout.of(given_params)
    vector = layout.flatten(given_params)
    assert vector.shape == (layout.size,)
    back = layout.unflatten(vector)
    assert list(back) == list(given_params)
    for name, tensor in given_params.items():
        assert back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)


@given(params, st.randoms(use_true_random=False))
def test_the_order_is_the_layouts_and_not_the_mappings(
    given_params: dict[str, Tensor], random: Random
) -> None:
    layout = Layout.of(given_params)
    names = list(given_params)
    random.shuffle(names)
    shuffled = {name: given_params[name] for name in names}
    assert bits(layout.flatten(shuffled)) == bits(layout.flatten(given_params))


def example() -> dict[str, Tensor]:
    return {"w": torch.arange(6.0).view(2, 3), "b": torch.tensor([7.0, 8.0])}


def test_a_vector_is_the_tensors_end_to_end() -> None:
    layout = Layout.of(example())
    assert layout == Layout(("w", "b"), ((2, 3), (2,)))
    assert layout.flatten(example()).tolist() == [0, 1, 2, 3, 4, 5, 7, 8]


def test_flatten_copies_and_unflatten_looks_into_the_vector() -> None:
    layout, one = Layout(("w",), ((3,),)), {"w": torch.zeros(3)}
    vector = layout.flatten(one)
    vector[0] = 5
    assert not one["w"].any()
    assert layout.unflatten(vector)["w"][0] == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"w": torch.zeros(2, 3)},
        {"w": torch.zeros(3, 2), "b": torch.zeros(2)},
        {"w": torch.zeros(2, 3), "b": torch.zeros(3)},
        {"w": torch.zeros(2, 3), "c": torch.zeros(2)},
        {"w": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(2)},
        {},
    ],
)
def test_flatten_refuses_what_is_missing_too_many_or_of_another_shape(
    changed: dict[str, Tensor],
) -> None:
    with pytest.raises(ValueError, match="parameters must have the layout"):
        Layout.of(example()).flatten(changed)


@pytest.mark.parametrize("shape", [(7,), (9,), (1, 8), ()])
def test_unflatten_refuses_another_length(shape: tuple[int, ...]) -> None:
    message = re.escape(f"the vector must have shape (8,), got {shape}")
    with pytest.raises(ValueError, match=message):
        Layout.of(example()).unflatten(torch.zeros(shape))


def digest(named: dict[str, Tensor]) -> str:
    layout = Layout.of(named)
    return sha256_of(layout, layout.flatten(named).numpy())


def test_the_digest_is_the_same_for_the_same_and_does_not_look_at_strides() -> None:
    layout = Layout.of(example())
    vector = layout.flatten(example()).numpy()
    strided = np.stack([vector, vector], axis=1)[:, 0]
    assert not strided.flags.c_contiguous
    assert sha256_of(layout, strided) == sha256_of(layout, vector) == digest(example())


@pytest.mark.parametrize("index", range(8))
def test_the_digest_changes_with_the_last_bit_of_any_value(index: int) -> None:
    layout = Layout.of(example())
    vector = layout.flatten(example()).numpy()
    changed = vector.copy()
    changed[index] = np.nextafter(changed[index], np.float32(np.inf))
    assert sha256_of(layout, changed) != sha256_of(layout, vector)


def test_the_digest_changes_with_a_name_a_shape_or_the_order() -> None:
    w, b = example().values()
    variants = [
        {"w": w, "b": b},
        {"v": w, "b": b},
        {"w": w.view(3, 2), "b": b},
        {"w": w.view(6), "b": b},
        {"b": b, "w": w},
        {"w": w, "b": b[:1], "c": b[1:]},
    ]
    assert len({digest(named) for named in variants}) == len(variants)


@given(params, params)
def test_other_parameters_have_another_digest(
    one: dict[str, Tensor], other: dict[str, Tensor]
) -> None:
    same = Layout.of(one) == Layout.of(other) and all(
        bits(a) == bits(b) for a, b in zip(one.values(), other.values(), strict=True)
    )
    assert (digest(one) == digest(other)) is same
