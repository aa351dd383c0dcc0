"""Scores, rankings and ensembles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dmeta.metrics import METRICS
from dmeta.metrics.classification import ACCURACY, accuracy
from dmeta.metrics.finite import finite_rows
from dmeta.metrics.regression import MSE, mse
from dmeta.runs.progress import fresh
from dmeta.runtime.messages import Block, BlockReport, TaskPredictions
from dmeta.training.evaluation import (
    Curve,
    Evaluation,
    as_plain,
    has_diverged,
    model_text,
    non_finite_line,
    ranked,
    undefined_lines,
)
from dmeta.training.metric_rows import val_row
from dmeta.training.summaries import summarize, summarize_ensemble
from dmeta.training.work.scores import non_finite_of, scores_of


def evaluation(step: int, value: float, metric: str = "accuracy") -> Evaluation:
    curve = Curve((value,), (0.0,))
    return Evaluation("val", 10, METRICS[metric].make().declaration, step, "single", curve, curve)


@pytest.mark.parametrize(
    ("metric", "steps"), [("accuracy", [(3, 0.9), (1, 0.5)]), ("mse", [(4, 0.1), (1, 0.5)])]
)
def test_the_best_come_first_and_nan_never(metric: str, steps: list[tuple[int, float]]) -> None:
    best: tuple[tuple[int, float], ...] = ()
    for step, value in ((1, 0.5), (2, math.nan), (3, 0.9), (4, 0.1), (5, 0.5)):
        best = ranked(best, evaluation(step, value, metric), 2)
    assert list(best) == steps


def test_scores_are_the_same_with_tasks_in_front() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, 2, generator=rng)  # T, K+1, Q, W
    labels = torch.randint(2, (4, 5), generator=rng)
    values = torch.randn(4, 5, 2, generator=rng)
    for metric, target in ((ACCURACY, labels), (MSE, values)):
        both = {"transductive_prediction": logits, "non_transductive_prediction": -logits}
        whole = scores_of([metric], {**both, "target": target}, 2, batched=True)
        assert whole[f"transductive_{metric.name}"].shape == (4, 3)
        one = {name: p[2] for name, p in both.items()}
        alone = scores_of([metric], {**one, "target": target[2]}, 2, batched=True)
        for key, score in alone.items():
            assert torch.equal(score, whole[key][2])
    right = (logits[1, 2].argmax(-1) == labels[1]).float().mean()
    together = {"transductive_prediction": logits, "non_transductive_prediction": logits}
    scores = scores_of([ACCURACY], {**together, "target": labels}, 2, batched=True)
    assert scores["transductive_accuracy"][1, 2] == right


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    """Two sure models outvoted by one very sure one in logits, not in probabilities."""

    def report(logits: list[float]) -> list[BlockReport]:
        row = np.array([[[logits]]], dtype=np.float32)  # T, K+1, Q, W = 1, 1, 1, 2
        arrays = {
            "transductive_prediction": row,
            "non_transductive_prediction": -row,
            "target": np.array([[0]]),
        }
        block = Block("test", 0, 0, 0, 1, with_predictions=True)
        predicted = (TaskPredictions((0,), 2, arrays),)
        return [BlockReport(block, {}, True, 0.0, predictions=predicted)]

    models = [report([3.0, 0.0]), report([3.0, 0.0]), report([0.0, 100.0])]
    result = summarize_ensemble(models, "test", 7, "classification", [ACCURACY])
    assert result.transductive.mean == (1.0,)
    assert result.non_transductive.mean == (0.0,)
    assert (result.step, result.num_models, result.num_tasks) == (7, 3, 1)


def test_it_says_what_it_is_of() -> None:
    assert model_text("single", 1) == "single model"
    assert model_text("ensemble", 5) == "ensemble of 5 models"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_prediction_that_is_not_finite_is_wrong_whatever_the_label(
    bad: float, label: int
) -> None:
    """argmax answers with the place of the first NaN or infinity: class 0 was always right."""
    logits = torch.tensor([[bad, bad, bad], [bad, 0.0, 0.0], [0.0, bad, 0.0], [0.0, 0.0, bad]])
    labels = torch.full((4,), label)
    assert accuracy(logits, labels, 3) == 0
    assert not finite_rows("classification", logits).any()
    assert accuracy(torch.eye(3)[[label]], labels[:1], 3) == 1


def test_a_class_that_is_ruled_out_by_minus_infinity_leaves_a_prediction() -> None:
    logits = torch.tensor([[-math.inf, 1.0], [-math.inf, -math.inf]])
    assert accuracy(logits, torch.tensor([1, 1]), 2) == 0.5
    assert finite_rows("classification", logits).tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_squared_error_of_values_that_are_not_finite_is_not_finite(bad: float) -> None:
    values = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    assert not mse(values, torch.zeros(2, 2), 1).isfinite()
    assert finite_rows("regression", values).tolist() == [True, False]


def _report(predictions: list[list[list[list[float]]]]) -> list[BlockReport]:
    """Of tasks [T, K+1, Q, W] whose labels are all 0; one block."""
    logits = torch.tensor(predictions)
    found = {"transductive_prediction": logits, "non_transductive_prediction": logits}
    found["target"] = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.int64)
    counted = scores_of([ACCURACY], found, 2, batched=True)
    counted |= non_finite_of("classification", found)
    per_task = {name: value.numpy() for name, value in counted.items()}
    arrays = {name: value.numpy() for name, value in found.items()}
    predicted = (TaskPredictions(range(len(logits)), 2, arrays),)
    block = Block("test", 0, 0, 0, len(logits))
    return [BlockReport(block, {}, True, 0.0, per_task, predictions=predicted)]


def test_tasks_without_a_finite_prediction_are_counted_after_every_inner_step() -> None:
    right, lost = [1.0, 0.0], [math.nan, 0.0]
    reports = _report([[[right], [right]], [[right], [lost]], [[lost], [lost]]])
    result = summarize(reports, "test", 7, [ACCURACY])
    assert result.transductive.non_finite == (1, 2)
    assert result.num_non_finite == 2
    assert result.transductive.mean == pytest.approx((2 / 3, 1 / 3))
    # Of 1, 1, 0: s = 1 / sqrt(3), and t of 2 degrees of freedom is 4.3027.
    assert result.transductive.ci95 == pytest.approx((4.30265 / 3, 4.30265 / 3), rel=1e-5)
    plain = as_plain(result)
    assert plain["num_non_finite"] == 2
    line = non_finite_line(plain, ACCURACY.declaration)
    assert line is not None
    assert "2 of 3 test tasks" in line
    del plain["num_non_finite"]  # as earlier versions wrote it
    assert non_finite_line(plain, ACCURACY.declaration) is None
    both = summarize_ensemble([reports, reports], "test", 7, "classification", [ACCURACY])
    assert both.transductive == result.transductive


def test_a_model_that_predicts_nothing_finite_is_never_among_the_best() -> None:
    lost = summarize(_report([[[[math.nan, 0.0]]]] * 2), "val", 1, [ACCURACY])
    assert ranked((), lost, 2) == ()


def _scored(scores: list[list[float]], non_finite: list[list[int]]) -> list[BlockReport]:
    """Of tasks with these accuracies [M, K+1], and an nll of the last step."""
    values = np.array(scores, np.float32)
    per_task = {}
    for mode in ("transductive", "non_transductive"):
        per_task[f"{mode}_accuracy"] = values
        per_task[f"{mode}_nll"] = values[:, -1:]
        per_task[f"{mode}_non_finite"] = np.array(non_finite, np.float32)
    return [BlockReport(Block("test", 0, 0, 0, len(values)), {}, True, 0.0, per_task)]


def test_tasks_that_a_metric_is_not_defined_for_are_counted_and_left_out() -> None:
    reports = _scored([[0.5, math.nan], [0.5, 0.25], [1.0, 0.75]], [[0, 0]] * 3)
    result = summarize(reports, "test", 7, [ACCURACY, METRICS["nll"].make()])
    assert result.transductive.mean == pytest.approx((2 / 3, 0.5))
    assert result.transductive.undefined == (0, 1)
    # Of 0.25 and 0.75: s = 0.5 / sqrt(2), and t of 1 degree of freedom is 12.706.
    assert result.ci95 == pytest.approx(12.7062 * 0.25, rel=1e-5)
    last = result.further["nll"].transductive
    assert (last.mean, last.undefined) == (pytest.approx(0.5), 1)
    assert result.num_undefined == {"accuracy": 1, "nll": 1}
    plain = as_plain(result)
    assert plain["num_undefined"] == {"accuracy": 1, "nll": 1}
    lines = undefined_lines(plain)
    assert lines[1] == "nll is not defined for 1 of 3 test tasks, which are left out of its mean"
    row = val_row(fresh(""), result, 0.0)
    assert (row["accuracy"], row["accuracy_undefined"], row["nll_undefined"]) == (0.5, 1, 1)
    assert not has_diverged(result)


def test_a_score_that_is_nan_of_a_prediction_that_is_not_finite_is_not_left_out() -> None:
    reports = _scored([[0.5, math.nan], [0.5, 0.25]], [[0, 3], [0, 0]])
    result = summarize(reports, "test", 7, [ACCURACY])
    assert math.isnan(result.value)
    assert result.num_undefined == {}
    assert has_diverged(result)


def test_a_metric_that_is_defined_for_no_task_ranks_no_model() -> None:
    result = summarize(_scored([[math.nan]] * 3, [[0]] * 3), "val", 7, [ACCURACY])
    assert math.isnan(result.value)
    assert result.num_undefined == {"accuracy": 3}
    assert ranked((), result, 2) == ()
