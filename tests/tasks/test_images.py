from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmeta.tasks.classes import _draw_distinct, make_starts
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.source import EpisodeSize

COUNTS = [4, 7, 5, 6]


def make_source(turns: int = 1, colour: bool = False) -> ImageClasses:
    """Image number n has n in every pixel but its first, which is 255 (so that a turn shows)."""
    total = sum(COUNTS)
    images = np.empty((total, 3, 3, 3) if colour else (total, 3, 3), dtype=np.uint8)
    images[:] = np.arange(total).reshape(-1, *[1] * (images.ndim - 1))
    images[:, 0, 0] = 255
    pairs = np.array([(c, t) for c in range(4) for t in range(turns)])
    return ImageClasses(
        images,
        ("a/1", "a/2", "b/1", "c/1"),
        make_starts(COUNTS),
        {"train": pairs, "val": pairs[:turns], "test": pairs[-2 * turns :]},
    )


def numbers(x: np.ndarray) -> np.ndarray:
    return x[:, 1, 1]


@given(seed=st.integers(0, 2**32), ways=st.integers(1, 4), shots=st.integers(1, 3))
def test_images_are_distinct_and_of_the_class_that_the_label_says(
    seed: int, ways: int, shots: int
) -> None:
    source = make_source()
    size = EpisodeSize(ways, shots, 4 - shots)
    task = source.draw("train", size, np.random.default_rng(seed))
    drawn = np.concatenate([numbers(task.support_x), numbers(task.query_x)])
    assert len(set(drawn.tolist())) == ways * 4
    classes = np.searchsorted(source.starts, drawn, side="right") - 1
    labels = np.concatenate([task.support_y, task.query_y])
    pairs = set(zip(classes.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == ways  # one class per label, and one label per class
    assert {label for _, label in pairs} == set(range(ways))
    assert len({c for c, _ in pairs}) == ways


@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(5, 600), min_size=1, max_size=20),
    k=st.integers(1, 5),
)
def test_distinct_numbers_are_distinct_and_in_range(seed: int, counts: list[int], k: int) -> None:
    picked = _draw_distinct(np.array(counts), k, np.random.default_rng(seed))
    assert picked.shape == (len(counts), k)
    for row, count in zip(picked.tolist(), counts, strict=True):
        assert len(set(row)) == k
        assert min(row) >= 0
        assert max(row) < count


def test_every_ordered_choice_is_equally_likely() -> None:
    picked = _draw_distinct(np.full(24_000, 4), 3, np.random.default_rng(0))
    _, counts = np.unique(picked, axis=0, return_counts=True)
    assert len(counts) == 24
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert chi2 < 50  # 23 degrees of freedom: p = 0.001


def test_a_whole_class_can_be_drawn() -> None:
    task = make_source().draw("val", EpisodeSize(1, 2, 2), np.random.default_rng(0))
    drawn = np.concatenate([numbers(task.support_x), numbers(task.query_x)])
    assert sorted(drawn.tolist()) == [0, 1, 2, 3]


def test_a_turned_class_shows_its_images_turned_counterclockwise() -> None:
    source = make_source(turns=4)
    corner = {0: (0, 0), 1: (2, 0), 2: (2, 2), 3: (0, 2)}
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        task = source.draw("val", EpisodeSize(4, 1, 3), rng)
        for x, y in ((task.support_x, task.support_y), (task.query_x, task.query_y)):
            for image, label in zip(x, y, strict=True):
                (at,) = np.argwhere(image == 255).tolist()
                turn = next(t for t, place in corner.items() if list(place) == at)
                seen.add((seed, int(label), turn))
    assert len(seen) == 30 * 4  # one turn per label, the same in support and query
    assert {turn for _, _, turn in seen} == {0, 1, 2, 3}
    assert source.split_class_names("val") == tuple(f"a/1/rot{d}" for d in ("000", "090", "180", "270"))  # noqa: E501  # fmt: skip


def test_grey_and_colour_reach_the_network_as_channels_first_in_0_to_1() -> None:
    for colour, channels in ((False, 1), (True, 3)):
        source = make_source(colour=colour)
        assert source.input_shape == (channels, 3, 3)
        out = source.preprocess(torch.from_numpy(source.images))
        assert out.shape == (sum(COUNTS), channels, 3, 3)
        assert out.max() == 1.0
        assert torch.allclose(out[5, :, 1, 1], torch.tensor(5 / 255))


def test_messages_name_the_smallest_class_and_the_key() -> None:
    source = make_source()
    with pytest.raises(
        ValueError,
        match=r"shots \+ queries must be <= 5 \(class 'b/1'\), got 6; lower task\.queries, "
        r"or set task\.sampler to at_most$",
    ):
        source.check("test", EpisodeSize(2, 1, 5))
    with pytest.raises(
        ValueError, match=r"ways must be <= 2 \(classes of split 'test'\), got 3; lower task\.ways$"
    ):
        source.check("test", EpisodeSize(3, 1, 1))
    with pytest.raises(ValueError, match=r"lower task\.train_ways \(or task\.ways\)$"):
        source.check("train", EpisodeSize(5, 1, 1))


def test_a_class_that_is_turned_for_each_task_is_four_classes_of_a_mini_batch() -> None:
    upright = make_source()
    source = replace(upright, turned_per_task=frozenset({"train"}))
    assert (upright.num_classes("train"), source.num_classes("train")) == (4, 16)
    x, y = source.draw_batch("train", sum(COUNTS), np.random.default_rng(0))
    assert len(set((y % 4).tolist())) == 4
    for image, label in zip(x, y, strict=True):
        place, turn = divmod(int(label), 4)
        row = numbers(image[None])[0]
        assert source.starts[place] <= row < source.starts[place + 1]
        assert np.array_equal(image, np.rot90(source.images[row], turn))
