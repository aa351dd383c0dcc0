"""How many classes and examples a task has, for every sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.classes import check_episode, draw_episode, make_starts
from dmeta.tasks.grouped_rows import GroupedRows
from dmeta.tasks.samplers import Composition, draw_composition
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize

COUNTS = np.array([20, 3, 40, 7, 200, 12, 2, 90])
NAMES = [str(count) for count in COUNTS]
META = EpisodeSize(6, 15, 10, "meta_dataset", max_support=60)


def compositions(size: EpisodeSize, num: int = 2000) -> list[Composition]:
    return [draw_composition(size, COUNTS, np.random.default_rng([7, i])) for i in range(num)]


def test_of_a_fixed_size_nothing_is_drawn_but_the_classes() -> None:
    """The generator is left where it always was, so the tasks of older runs are the same."""
    rng, plain = np.random.default_rng(3), np.random.default_rng(3)
    found = draw_composition(EpisodeSize(3, 1, 1), COUNTS, rng)
    assert found.chosen.tolist() == plain.choice(len(COUNTS), 3, replace=False).tolist()
    assert rng.bit_generator.state == plain.bit_generator.state
    assert (found.shots.tolist(), found.queries.tolist()) == ([1] * 3, [1] * 3)


def test_at_most_gives_the_support_set_first_and_leaves_a_query() -> None:
    for chosen, shots, queries in compositions(EpisodeSize(4, 5, 10, "at_most"), 200):
        counts = COUNTS[chosen]
        assert shots.tolist() == [min(5, int(n) - 1) for n in counts]
        assert queries.tolist() == [min(10, int(n - k)) for n, k in zip(counts, shots, strict=True)]


def test_uniform_draws_every_number_of_ways_and_shots_equally_often() -> None:
    num = 6000
    drawn = compositions(EpisodeSize(5, 2, 1, "uniform"), num)
    ways = np.bincount([len(each.chosen) for each in drawn], minlength=6)
    assert ways[:2].tolist() == [0, 0]
    # Chi-square of 3 degrees of freedom: above 16.3 once in 1,000.
    assert ((ways[2:] - num / 4) ** 2 / (num / 4)).sum() < 16.3
    wide = [each for each in drawn if COUNTS[each.chosen].min() > 2]
    two = np.mean([each.shots[0] == 2 for each in wide])
    assert abs(two - 0.5) < 4 * 0.5 / len(wide) ** 0.5


def test_meta_dataset_is_as_its_paper_says() -> None:
    num = 6000
    drawn = compositions(META, num)
    ways = np.bincount([len(each.chosen) for each in drawn], minlength=7)
    assert ways[:5].sum() == 0
    assert abs(ways[5] / num - 0.5) < 4 * 0.5 / num**0.5
    for chosen, shots, queries in drawn:
        counts = COUNTS[chosen]
        assert len(set(chosen.tolist())) == len(chosen)
        assert set(queries.tolist()) == {min(10, int(counts.min()) // 2)}
        assert shots.min() >= 1
        assert (shots <= counts - queries).all()
        assert shots.sum() <= 60
    totals = [int(each.shots.sum()) for each in drawn]
    assert max(totals) > 50
    assert len(set(totals)) > 40


def test_larger_classes_have_more_shots_in_a_task_of_meta_dataset() -> None:
    shots: dict[int, list[int]] = {}
    for each in compositions(META):
        for place, count in zip(each.chosen.tolist(), each.shots.tolist(), strict=True):
            shots.setdefault(place, []).append(count)
    means = [float(np.mean(shots[place])) for place in np.argsort(COUNTS).tolist()]
    assert means == sorted(means)
    assert means[-1] > 3 * means[2]


def test_the_weights_of_classes_of_one_size_are_log_uniform() -> None:
    """Of two classes of one size, r = ln(w1 / w2) has a triangular density on [-2 ln 2, 2 ln 2]."""
    counts, logs = np.full(2, 10**6), []
    size = EpisodeSize(2, 10**5, 1, "meta_dataset", max_support=10**5)
    for i in range(4000):
        rng = np.random.default_rng(i)
        shots = draw_composition(size, counts, rng).shots
        if shots.sum() > 20_000:  # else the whole numbers are too coarse
            logs.append(float(np.log(shots[0] / shots[1])))
    most = 2 * np.log(2)
    assert np.abs(logs).max() < most + 0.01
    assert abs(np.std(logs) - most / 6**0.5) < 0.02  # that of a triangle


SAMPLED = [
    EpisodeSize(4, 5, 10, "at_most"),
    EpisodeSize(4, 1, 1, "uniform"),
    META,
    EpisodeSize(4, 1, 1),
]


@pytest.mark.parametrize("size", SAMPLED, ids=lambda size: size.sampler)
def test_an_episode_has_no_row_twice_and_all_rows_of_their_classes(size: EpisodeSize) -> None:
    starts, classes = make_starts(COUNTS.tolist()), np.arange(len(COUNTS))
    check_episode("test", size, classes, starts, NAMES)
    of_row = np.repeat(classes, COUNTS)
    used = np.zeros(len(of_row), np.int64)
    for i in range(300):
        episode = draw_episode("test", size, classes, starts, NAMES, np.random.default_rng(i))
        rows = np.concatenate([episode.support, episode.query])
        labels = np.concatenate([episode.support_y, episode.query_y])
        assert len(np.unique(rows)) == len(rows)
        assert np.array_equal(of_row[rows], episode.chosen[labels])
        assert set(episode.support_y.tolist()) == set(range(len(episode.chosen)))
        assert episode.query_y.tolist() == sorted(episode.query_y.tolist())
        used[rows] += 1
    assert np.count_nonzero(used) > 0.9 * min(len(used), 300)


def groups(*counts: int) -> GroupedRows:
    rows = sum(counts)
    x = np.arange(rows, dtype=np.float32)[:, None]
    every = np.arange(len(counts))
    names = tuple(f"g{i}" for i in every)
    splits: Any = dict.fromkeys(("train", "val", "test"), every)
    return GroupedRows(x, x, names, make_starts(list(counts)), splits)


def test_a_group_is_used_with_the_rows_that_it_has() -> None:
    source, size = groups(3, 8, 50), EpisodeSize(1, 5, 100, "at_most")
    seen = set()
    for i in range(40):
        task = source.draw("test", size, np.random.default_rng(i))
        seen.add((len(task.support_x), len(task.query_x)))
        rows = np.concatenate([task.support_x, task.query_x])
        assert len(np.unique(rows)) == len(rows)
    assert seen == {(2, 1), (5, 3), (5, 45)}


def test_points_of_a_regression_are_drawn_uniformly() -> None:
    drawn = [
        len(Sinusoid().draw("test", EpisodeSize(1, 3, 2, "uniform"), np.random.default_rng(i))[0])
        for i in range(300)
    ]
    assert set(drawn) == {1, 2, 3}


def of_classes(size: EpisodeSize) -> None:
    check_episode("test", size, np.arange(8), make_starts(COUNTS.tolist()), NAMES)


@pytest.mark.parametrize(
    ("check", "size", "message"),
    [
        (of_classes, EpisodeSize(9, 1, 1, "at_most"), r"ways must be <= 8 \(classes of split"),
        (of_classes, EpisodeSize(50, 1, 1, "uniform", min_ways=9), r"min_ways must be <= 8.*task\.min_ways"),  # noqa: E501
        (of_classes, EpisodeSize(4, 1, 1, "uniform", min_ways=5), r"min_ways must be <= ways \(4\), got 5"),  # noqa: E501
        (of_classes, EpisodeSize(8, 9, 9, "meta_dataset", max_support=7), r"max_support must be >= ways \(8\)"),  # noqa: E501
        (of_classes, EpisodeSize(4, 1, 2, "uniform"), r"shots \+ queries must be <= 2 \(class '2'\)"),  # noqa: E501
        (of_classes, EpisodeSize(4, 1, 1, "uniform", min_ways=1), r"min_ways must be >= 2 .* got 1; raise task\.min_ways"),  # noqa: E501
        (of_classes, EpisodeSize(4, 1, 1, "source"), r"sampler must be fixed or at_most or uniform or meta_dataset for this source, got source; change task\.sampler"),  # noqa: E501
        (lambda size: groups(1, 9).check("test", size), EpisodeSize(1, 5, 5, "at_most"), r"2 rows at least, got 1 of group 'g0'"),  # noqa: E501
        (lambda size: groups(9, 9).check("train", size), EpisodeSize(1, 5, 5, "meta_dataset"), r"sampler must be.*task\.train_sampler"),  # noqa: E501
        (lambda size: Sinusoid().check("test", size), EpisodeSize(1, 5, 5, "at_most"), r"sampler must be fixed or uniform"),  # noqa: E501
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused(
    check: Callable[[EpisodeSize], None], size: EpisodeSize, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(size)


def test_a_class_with_a_single_example_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"2 examples at least, got 1 of class 'small'"):
        check_episode("test", META, np.arange(6), make_starts([9, 9, 9, 9, 9, 1]), ["a"] * 5 + ["small"])  # noqa: E501  # fmt: skip


def test_within_a_superclass_all_classes_are_of_one_that_is_large_enough() -> None:
    names = ["a/0", "a/1", "a/2", "b/0", "c/0", "c/1", "c/2", "c/3"]
    size = EpisodeSize(3, 1, 1, within="superclass")
    classes, starts = np.arange(1, 8), make_starts([2] * 8)  # a has two in this split
    check_episode("train", size, classes, starts, names)
    seen = set()
    for i in range(60):
        episode = draw_episode("train", size, classes, starts, names, np.random.default_rng(i))
        assert {names[classes[c]][0] for c in episode.chosen} == {"c"}
        assert np.array_equal(episode.support // 2, classes[episode.chosen[episode.support_y]])
        seen.add(tuple(episode.chosen.tolist()))
    assert len(seen) > 15
    both = EpisodeSize(2, 1, 1, within="superclass")
    drawn = [draw_episode("train", both, classes, starts, names, np.random.default_rng(i)).chosen for i in range(400)]  # noqa: E501  # fmt: skip
    share = np.mean([names[classes[chosen[0]]][0] == "a" for chosen in drawn])
    assert abs(share - 0.5) < 0.1, "superclasses are equally likely, not classes"


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        (["a/0", "a/1", "b"], EpisodeSize(2, 1, 1, within="superclass"), r"task\.within=superclass must have classes whose names are superclass/class, got 'b'"),  # noqa: E501
        (["a/0", "a/1", "b/0"], EpisodeSize(3, 1, 1, within="superclass"), r"ways must be <= 2 \(classes of the largest superclass of split 'test'\), got 3"),  # noqa: E501
    ],
)  # fmt: skip
def test_superclasses_that_there_are_not_are_refused(
    names: list[str], size: EpisodeSize, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_episode("test", size, np.arange(3), make_starts([2, 2, 2]), names)
    with pytest.raises(ValueError, match=r"within must be all for a source without classes"):
        Sinusoid().check("test", EpisodeSize(1, 2, 2, within="superclass"))
