"""Scores, rankings and ensembles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dmeta.runtime.protocol import Block, BlockReport
from dmeta.training.evaluation import (
    Curve,
    Evaluation,
    model_in_words,
    ranked,
    summarize_ensemble,
)
from dmeta.training.work import scores_of


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
    assert model_in_words("single", 1) == "single model"
    assert model_in_words("ensemble", 5) == "ensemble of 5 models"
