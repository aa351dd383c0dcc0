"""Axes of a search's figures: values and scores stand where they belong."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dmeta.reports.search_axes import (
    KeyAxis,
    ScoreAxis,
    joined_dimension,
    key_axes,
    log_ticks,
    plane_keys,
)
from dmeta.search.space import Choice, Dimension, Interval, Space
from tests.reports.trial_rows import trial_row


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Choice((1, 3)), Choice((5, 3)), Choice((1, 3, 5))),
        (Interval(0.1, 1, log=True), Interval(0.01, 0.5), Interval(0.01, 1, log=True)),
        (Interval(0.1, 1), Choice((5, 10)), Interval(0.1, 10)),
        (Choice(("a", None)), Interval(0, 1), Choice(("a", None, 0, 1))),
    ],
)
def test_a_key_of_two_dimensions_has_one_axis(
    one: Dimension, other: Dimension, both: Dimension
) -> None:
    assert joined_dimension(one, other) == both


def test_values_stand_where_they_belong() -> None:
    def height(dimension: Dimension, value: Any) -> float:
        return KeyAxis("key", dimension).height(value)

    assert height(Interval(0.01, 1, log=True), 0.1) == pytest.approx(0.5)
    assert height(Interval(0, 4), 1) == 0.25
    assert height(Choice(("a", "b", "c")), "c") == 1
    assert height(Choice((None, 1.0)), None) == 0
    assert height(Choice((1, True)), True) == 1
    assert height(Choice(([1], [2])), (2,)) == 1  # JSON has no tuples


@pytest.mark.parametrize(
    ("dimension", "is_log", "position"),
    [
        (Interval(1, 8, log=True), True, 2.0),
        (Interval(1, 8), False, 2.0),
        (Choice((2, 8)), False, 2.0),
        (Choice((2, 20)), True, 2.0),
        (Choice((2, "a")), False, 0.0),
        (Choice((2, None)), False, 0.0),
        (Choice((2, True)), False, 0.0),
    ],
)
def test_an_axis_of_numbers_shows_numbers_and_any_other_its_categories(
    dimension: Dimension, is_log: bool, position: float
) -> None:
    axis = KeyAxis("key", dimension)
    assert (axis.is_log, axis.position(2)) == (is_log, position)


def test_values_that_are_not_in_the_space_are_on_the_axes() -> None:
    space = Space(
        {"a": Choice((1, 2)), "b": Interval(0.1, 1, log=True), "c": Choice(("x",))},
        {"a=2": Space({"c": Interval(0, 1), "d": Interval(0, 1)})},
    )
    points: list[dict[str, Any]] = [{"a": 1, "b": 0.05, "c": "x"}, {"a": 2.5, "b": 3, "c": 0.5}]
    axes = key_axes(space, [trial_row(1, points[0], 1.0), trial_row(2, points[1], 1.0)])
    assert {key: axis.dimension for key, axis in axes.items()} == {
        "a": Choice((1, 2, 2.5)),
        "b": Interval(0.05, 3, log=True),
        "c": Choice(("x", 0, 1, 0.5)),
    }
    heights = [[axis.height(point[key]) for key, axis in axes.items()] for point in points]
    assert heights == [[0, 0, 0], [1, 1, 1]]
    assert plane_keys(axes) == ("a", "b")


def test_the_two_learning_rates_are_drawn_against_each_other() -> None:
    keys = ("meta_batch_size", "outer.lr", "algorithm.inner_lr")
    axes = {key: KeyAxis(key, Interval(0, 1)) for key in keys}
    assert plane_keys(axes) == ("algorithm.inner_lr", "outer.lr")
    assert plane_keys({"outer.lr": axes["outer.lr"]}) is None


@pytest.mark.parametrize(
    ("dimension", "labelled"),
    [
        (Interval(0.0001, 0.03, log=True), [0.0001, 0.001, 0.01, 0.03]),
        (Interval(0, 4), [0, 2, 4]),
        (Choice(("a", None)), ["a", None]),
        (Choice(tuple(range(100))), list(range(0, 100, 10))),
    ],
)
def test_a_parallel_axis_labels_its_ends_and_what_is_between(
    dimension: Dimension, labelled: list[Any]
) -> None:
    assert KeyAxis("key", dimension).labelled() == pytest.approx(labelled)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1e-4, 3e-2, [1e-4, 1e-3, 1e-2]),
        (0.3, 1.2, [0.3, 0.5, 1]),
        (0.02, 0.7, [0.02, 0.05, 0.1, 0.2, 0.5]),
        (1e-9, 1e9, [1e-9, 1e-5, 1e-1, 1e3, 1e7]),
    ],
)
def test_a_logarithmic_axis_has_a_few_round_labels(
    low: float, high: float, shown: list[float]
) -> None:
    ticks = log_ticks(low, high)
    assert [tick for tick in ticks if low <= tick <= high * 1.001] == pytest.approx(shown)
    assert ticks[0] < low / 100
    assert ticks[-1] > high * 100


def test_accuracies_are_shown_as_they_are_and_the_larger_are_darker() -> None:
    axis = ScoreAxis.of([0.2, 0.9, 0.55], "accuracy", "max")
    assert (axis.low, axis.high, axis.is_log, axis.ends) == (0.2, 0.9, False, None)
    assert [axis.fraction(score) for score in (0.2, 0.55, 0.9)] == pytest.approx([0, 0.5, 1])
    assert axis.darkest_is_high
    assert axis.labelled() == pytest.approx([0.2, 0.375, 0.55, 0.725, 0.9])


def test_errors_that_differ_much_are_shown_by_their_logarithm_without_outliers() -> None:
    axis = ScoreAxis.of([0.1, 1.0, 10.0, 1e6], "mse", "min")
    assert (axis.low, axis.high, axis.is_log, axis.has_outliers) == (0.1, 10, True, True)
    assert [axis.fraction(score) for score in (0.1, 1, 10, 1e6)] == pytest.approx([0, 0.5, 1, 1])
    assert not axis.darkest_is_high
    assert axis.ends == pytest.approx((0.1 / 1.3, 13))


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        ([2.0, 2.5], None),
        ([0.0, 5.0], None),
        ([2.0, 2.5, 2.0, 2.5, 1e6], (1.95, 2.55)),
        ([2.0, 2.0, 1e6], (1.8, 2.2)),
        ([], None),
    ],
)
def test_errors_that_are_alike_or_zero_have_a_linear_axis(
    scores: list[float], ends: tuple[float, float] | None
) -> None:
    axis = ScoreAxis.of(scores, "mse", "min")
    assert not axis.is_log
    assert axis.ends == (ends if ends is None else pytest.approx(ends))
    assert all(math.isfinite(axis.fraction(score)) for score in scores)
