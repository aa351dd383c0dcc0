from __future__ import annotations

import numpy as np
import pytest

from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.source import SPLITS, EpisodeSize


def test_the_seed_decides_everything_and_a_class_does_not_depend_on_how_many_there_are() -> None:
    few, many = make_glyphs(num_classes=20), make_glyphs(num_classes=30)
    assert np.array_equal(few.images, many.images[: len(few.images)])
    assert not np.array_equal(few.images, make_glyphs(num_classes=20, seed=1).images)


def test_splits_are_disjoint_and_in_proportion() -> None:
    source = make_glyphs()
    names = [set(source.split_class_names(split)) for split in SPLITS]
    assert [len(n) for n in names] == [192, 48, 60]
    assert len(set.union(*names)) == 300


@pytest.mark.parametrize("num_classes", [15, 16, 17])
def test_even_the_fewest_classes_leave_two_for_each_split(num_classes: int) -> None:
    source = make_glyphs(num_classes=num_classes, drawings=2)
    for split in SPLITS:
        source.check(split, EpisodeSize(2, 1, 1))


def test_every_drawing_has_ink_and_is_another() -> None:
    images = make_glyphs(num_classes=40).images
    ink = (images > 127).mean(axis=(1, 2))
    assert ink.min() > 0.02
    assert ink.max() < 0.5
    assert len({image.tobytes() for image in images}) == len(images)


def test_one_drawing_tells_its_class_better_than_chance_but_not_always() -> None:
    """Nearest neighbour on pixels, 5-way 1-shot: between chance (0.2) and solved."""
    source = make_glyphs()
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(100):
        task = source.draw("test", EpisodeSize(5, 1, 5), rng)
        support = task.support_x.reshape(5, -1).astype(np.float64)
        query = task.query_x.reshape(25, -1).astype(np.float64)
        nearest = ((query[:, None] - support[None]) ** 2).sum(-1).argmin(1)
        hits.append(task.support_y[nearest] == task.query_y)
    assert 0.45 < np.mean(hits) < 0.8


@pytest.mark.parametrize("options", [{"num_classes": 14}, {"drawings": 1}, {"seed": -1}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name} must be in .*got .*; change task\.{name}"):
        make_glyphs(**options)
