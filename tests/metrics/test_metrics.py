"""Each metric against a computation that is not ours: plain numpy, or scipy.

Letters: Q query examples, D outputs, W ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from dmeta.metrics import METRICS, default_metric
from dmeta.metrics.declaration import Declaration, as_plain, declaration_of
from dmeta.metrics.metric import Metric, scores

Array = npt.NDArray[Any]
Formula = Callable[[Array, Array, int], float]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _accuracy(logits: Array, labels: Array, ways: int) -> float:
    return float(np.mean(logits.argmax(-1) == labels))


def _balanced(logits: Array, labels: Array, ways: int) -> float:
    found = logits.argmax(-1)
    return float(np.mean([np.mean(found[labels == c] == c) for c in np.unique(labels)]))


def _f1(logits: Array, labels: Array, ways: int) -> float:
    found, each = logits.argmax(-1), []
    for c in np.union1d(found, labels):
        both = np.sum((found == c) & (labels == c))
        each.append(2 * both / (np.sum(found == c) + np.sum(labels == c)))
    return float(np.mean(each))


def _nll(logits: Array, labels: Array, ways: int) -> float:
    return float(-np.mean(np.log(_softmax(logits)[np.arange(len(labels)), labels])))


def _brier(logits: Array, labels: Array, ways: int) -> float:
    away = _softmax(logits) - np.eye(logits.shape[-1])[labels]
    return float(np.mean(np.sum(away**2, -1)))


def _ece(logits: Array, labels: Array, ways: int) -> float:
    chances = _softmax(logits)
    sure, right = chances.max(-1), chances.argmax(-1) == labels
    bins = np.ceil(sure * 15)  # (0, 1/15], (1/15, 2/15], ...
    parts = [bins == each for each in np.unique(bins)]
    return float(sum(np.mean(p) * abs(np.mean(right[p]) - np.mean(sure[p])) for p in parts))


def _areas(area: Callable[[Array, Array], float]) -> Formula:
    def mean(logits: Array, labels: Array, ways: int) -> float:
        chances = _softmax(logits)
        classes = [1] if ways == 2 else range(ways)
        return float(np.mean([area(chances[:, c], labels == c) for c in classes]))

    return mean


def _pairs(chances: Array, is_class: Array) -> float:
    """Pairs in the right order; of equal ones a half."""
    inside, outside = chances[is_class], chances[~is_class]
    gain = inside[:, None] - outside
    return float(np.mean((gain > 0) + 0.5 * (gain == 0)))


def _average_precision(chances: Array, is_class: Array) -> float:
    area, before = 0.0, 0.0
    for bound in sorted(set(chances), reverse=True):
        taken = chances >= bound
        recall = np.sum(taken & is_class) / np.sum(is_class)
        area += (recall - before) * np.sum(taken & is_class) / np.sum(taken)
        before = recall
    return area


def _r2(values: Array, targets: Array, ways: int) -> float:
    residual = np.sum((values - targets) ** 2, 0)
    return float(np.mean(1 - residual / np.sum((targets - targets.mean(0)) ** 2, 0)))


def _spearman(values: Array, targets: Array, ways: int) -> float:
    pairs = zip(values.T, targets.T, strict=True)
    return float(np.mean([stats.spearmanr(v, t).statistic for v, t in pairs]))


FORMULAS: dict[str, Formula] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced,
    "macro_f1": _f1,
    "nll": _nll,
    "brier": _brier,
    "ece": _ece,
    "auroc": _areas(_pairs),
    "auprc": _areas(_average_precision),
    "mse": lambda v, t, _: float(np.mean((v - t) ** 2)),
    "mae": lambda v, t, _: float(np.mean(np.abs(v - t))),
    "mase": lambda v, t, _: float(np.mean(np.abs(v - t))),
    "smape": lambda v, t, _: float(np.mean(2 * np.abs(v - t) / (np.abs(v) + np.abs(t)))),
    "r2": _r2,
    "spearman": _spearman,
}

BUILTIN = list(METRICS.builtin)


def metric_named(name: str) -> Metric:
    return METRICS[name].make()


def computed(name: str, predictions: Any, targets: Any, ways: int) -> float:
    """The metric of one task."""
    predictions, targets = torch.as_tensor(predictions), torch.as_tensor(targets)
    return float(scores(metric_named(name), predictions, targets, ways))


def task(name: str, seed: int, *, ways: int, ties: bool = False) -> tuple[Array, Array]:
    """Random predictions of a task; with ties, they are a few, each of several queries."""
    rng = np.random.default_rng(seed)
    if metric_named(name).kind == "classification":
        targets = rng.permutation(np.repeat(np.arange(ways), rng.integers(2, 9, ways)))
        predictions = 2 * rng.normal(size=(len(targets), ways))
    else:
        targets = rng.normal(size=(17, 2))
        predictions = targets + rng.normal(size=targets.shape)
        targets = np.round(targets, 1 if ties else 9)
    if ties:
        predictions = predictions[rng.integers(0, 4, len(predictions))]
    return predictions, targets


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("ways", [2, 5])
@pytest.mark.parametrize("name", BUILTIN)
def test_it_is_the_published_formula(name: str, ways: int, ties: bool) -> None:
    for seed in range(8):
        predictions, targets = task(name, seed, ways=ways, ties=ties)
        expected = FORMULAS[name](predictions, targets, ways)
        assert computed(name, predictions, targets, ways) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_perfect_prediction_is_best_and_all_values_are_in_range(name: str) -> None:
    metric = metric_named(name)
    assert metric.name == name
    for seed in range(5):
        predictions, targets = task(name, seed, ways=3)
        perfect = 1e3 * np.eye(3)[targets] if metric.kind == "classification" else targets
        best = computed(name, perfect, targets, 3)
        value = computed(name, predictions, targets, 3)
        assert best > value if metric.higher_is_better else best < value
        assert best == pytest.approx(metric.high if metric.higher_is_better else metric.low)
        for each in (best, value):
            assert metric.low is None or each >= metric.low - 1e-6
            assert metric.high is None or each <= metric.high + 1e-6


@pytest.mark.parametrize("name", BUILTIN)
def test_tasks_in_front_are_tasks_one_by_one(name: str) -> None:
    """And a task's score does not depend on the others."""
    drawn = [task(name, 3, ways=3), task(name, 3, ways=3)]
    predictions = torch.stack([torch.from_numpy(p).float() for p, _ in drawn])
    predictions = torch.stack([predictions, -predictions], 1)  # [T, K+1, Q, D]
    targets = torch.stack([torch.from_numpy(t) for _, t in drawn]).unsqueeze(1)
    targets = targets if targets.dtype == torch.int64 else targets.float()
    found = scores(metric_named(name), predictions, targets, 3)
    assert found.shape == (2, 2)
    assert found.dtype == torch.float32
    alone = scores(metric_named(name), -predictions[0, 0], targets[0, 0], 3)
    torch.testing.assert_close(found[1, 1], alone)


@pytest.mark.parametrize("name", ["auroc", "auprc"])
def test_areas_are_not_defined_without_a_query_of_each_class(name: str) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 3))
    assert math.isnan(computed(name, logits, np.array([0, 0, 1, 1, 0, 1]), 3))
    assert math.isnan(computed(name, logits[:, :2], np.zeros(6, np.int64), 2))


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "ece", "nll", "brier"])
def test_the_other_metrics_are_defined_without_a_query_of_each_class(name: str) -> None:
    logits, labels = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 0, 1, 1, 0, 1])
    expected = FORMULAS[name](logits, labels, 3)
    assert computed(name, logits, labels, 3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["r2", "spearman"])
def test_they_are_not_defined_for_equal_targets(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(6, 2))
    targets = values.copy()
    targets[:, 1] = 0.5
    assert math.isnan(computed(name, values, targets, 1))
    assert math.isnan(computed(name, values[:1], values[:1], 1))


def test_equal_predictions_have_no_rank_but_a_share_of_variance() -> None:
    targets = np.random.default_rng(0).normal(size=(6, 1))
    flat = np.full_like(targets, targets.mean())
    assert math.isnan(computed("spearman", flat, targets, 1))
    assert computed("r2", flat, targets, 1) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", BUILTIN)
def test_predictions_that_are_not_finite_do_what_is_declared(name: str) -> None:
    metric = metric_named(name)
    predictions, targets = task(name, 1, ways=3)
    predictions[0] = math.nan
    value = computed(name, predictions, targets, 3)
    if metric.non_finite != "such predictions count as wrong":
        assert not math.isfinite(value)
        return
    wrong = predictions.copy()
    others = [c for c in range(3) if c != targets[0]]
    bounds = []
    for c in others:  # as if it were of a class of its own: of F1, the classes' are as low at most
        wrong[0] = np.eye(3)[c]
        bounds.append(FORMULAS[name](wrong, targets, 3))
    assert min(bounds) - 1e-6 <= value <= max(bounds) + 1e-6 + (name == "macro_f1")
    assert value < 1


def test_outputs_beyond_the_ways_take_probability_and_are_no_class() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(12, 5)), np.arange(12) % 3
    chances = _softmax(logits)
    expected = np.mean([_pairs(chances[:, c], labels == c) for c in range(3)])
    assert computed("auroc", logits, labels, 3) == pytest.approx(expected)
    assert computed("nll", logits, labels, 3) == pytest.approx(_nll(logits, labels, 3))


def test_every_metric_has_a_kind_a_direction_and_plain_data() -> None:
    for name in BUILTIN:
        metric = metric_named(name)
        assert metric.kind in ("classification", "regression")
        assert declaration_of(as_plain(metric.declaration)) == metric.declaration
        assert metric.declaration.worst == (
            metric.low if metric.higher_is_better else metric.high
        ) or (abs(metric.declaration.worst) == 1e9)
    assert [default_metric(kind).name for kind in ("classification", "regression")] == [
        "accuracy",
        "mse",
    ]


def test_a_declaration_of_a_later_version_is_read_and_a_damaged_one_refused() -> None:
    plain = {"name": "x", "higher_is_better": True, "colour": "red"}
    assert declaration_of(plain) == Declaration("x", higher_is_better=True)
    with pytest.raises(ValueError, match="must have a name and higher_is_better"):
        declaration_of({"name": "x"})


@pytest.mark.parametrize("name", ["Mine", "a b", "", "loss", "ci95", "2x", "step"])
def test_a_name_that_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a metric must be"):
        Metric(name, lambda *_: 0.0, higher_is_better=True)
