"""Scores, rankings and ensembles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dmeta.runtime.messages import Block, BlockReport
from dmeta.training.evaluation import (
    Curve,
    Evaluation,
    as_plain,
    model_text,
    non_finite_line,
    ranked,
    summarize,
    summarize_ensemble,
)
from dmeta.training.work.worker import finite_rows, metric_of, non_finite_of, scores_of


def evaluation(step: int, value: float, metric: str = "accuracy") -> Evaluation:
    curve = Curve((value,), (0.0,))
    return Evaluation("val", 10, metric, step, "single", curve, curve)


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
    for kind, target in (("classification", labels), ("regression", values)):
        both = {"transductive_prediction": logits, "non_transductive_prediction": -logits}
        whole = scores_of(kind, {**both, "target": target})
        assert whole["transductive"].shape == (4, 3)
        one = {name: p[2] for name, p in both.items()}
        for mode, score in scores_of(kind, {**one, "target": target[2]}).items():
            assert torch.equal(score, whole[mode][2])
    right = (logits[1, 2].argmax(-1) == labels[1]).float().mean()
    together = {"transductive_prediction": logits, "non_transductive_prediction": logits}
    scores = scores_of("classification", {**together, "target": labels})
    assert scores["transductive"][1, 2] == right


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    """Two sure models outvoted by one very sure one in logits, not in probabilities."""

    def report(logits: list[float]) -> list[BlockReport]:
        row = np.array([[[logits]]], dtype=np.float32)  # T, K+1, Q, W = 1, 1, 1, 2
        per_task = {
            "transductive_prediction": row,
            "non_transductive_prediction": -row,
            "target": np.array([[0]]),
        }
        block = Block("test", 0, 0, 0, 1, with_predictions=True)
        return [BlockReport(block, {}, True, 0.0, per_task)]

    models = [report([3.0, 0.0]), report([3.0, 0.0]), report([0.0, 100.0])]
    result = summarize_ensemble(models, "test", 7, "classification")
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
    assert metric_of("classification", logits, labels) == 0
    assert not finite_rows("classification", logits).any()
    assert metric_of("classification", torch.eye(3)[[label]], labels[:1]) == 1


def test_a_class_that_is_ruled_out_by_minus_infinity_leaves_a_prediction() -> None:
    logits = torch.tensor([[-math.inf, 1.0], [-math.inf, -math.inf]])
    assert metric_of("classification", logits, torch.tensor([1, 1])) == 0.5
    assert finite_rows("classification", logits).tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_squared_error_of_values_that_are_not_finite_is_not_finite(bad: float) -> None:
    values = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    assert not metric_of("regression", values, torch.zeros(2, 2)).isfinite()
    assert finite_rows("regression", values).tolist() == [True, False]


def _report(predictions: list[list[list[list[float]]]]) -> list[BlockReport]:
    """Of tasks [T, K+1, Q, W] whose labels are all 0; one block."""
    logits = torch.tensor(predictions)
    found = {"transductive_prediction": logits, "non_transductive_prediction": logits}
    found["target"] = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.int64)
    counted = {**scores_of("classification", found), **non_finite_of("classification", found)}
    per_task = {name: value.numpy() for name, value in {**counted, **found}.items()}
    return [BlockReport(Block("test", 0, 0, 0, len(logits)), {}, True, 0.0, per_task)]


def test_tasks_without_a_finite_prediction_are_counted_after_every_inner_step() -> None:
    right, lost = [1.0, 0.0], [math.nan, 0.0]
    reports = _report([[[right], [right]], [[right], [lost]], [[lost], [lost]]])
    result = summarize(reports, "test", 7, "classification")
    assert result.transductive.non_finite == (1, 2)
    assert result.num_non_finite == 2
    assert result.transductive.mean == pytest.approx((2 / 3, 1 / 3))
    # Of 1, 1, 0: s = 1 / sqrt(3), and t of 2 degrees of freedom is 4.3027.
    assert result.transductive.ci95 == pytest.approx((4.30265 / 3, 4.30265 / 3), rel=1e-5)
    plain = as_plain(result)
    assert plain["num_non_finite"] == 2
    line = non_finite_line(plain)
    assert line is not None
    assert "2 of 3 test tasks" in line
    del plain["num_non_finite"]  # as earlier versions wrote it
    assert non_finite_line(plain) is None
    both = summarize_ensemble([reports, reports], "test", 7, "classification")
    assert both.transductive == result.transductive


def test_a_model_that_predicts_nothing_finite_is_never_among_the_best() -> None:
    lost = summarize(_report([[[[math.nan, 0.0]]]] * 2), "val", 1, "classification")
    assert ranked((), lost, 2) == ()
