"""Losses by name."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dmeta.training.work.losses import LOSSES, loss_of


def test_auto_is_the_usual_loss_of_the_kind() -> None:
    assert loss_of("auto", "classification") is F.cross_entropy
    assert loss_of("auto", "regression") is F.mse_loss


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_scalar_mean_with_a_second_derivative_under_vmap(name: str) -> None:
    kind, loss = LOSSES[name]
    prediction = torch.linspace(-1, 2, 8).reshape(2, 4, 1) * torch.ones(1, 1, 3)
    target = torch.tensor([[0, 1, 2, 0]] * 2) if kind == "classification" else -prediction
    hessian = torch.func.jacrev(torch.func.grad(loss))
    hessians = torch.func.vmap(hessian)(prediction, target)
    assert hessians.shape == (2, 4, 3, 4, 3)
    assert hessians.isfinite().all()
    rows = [loss(prediction[0, i : i + 1], target[0, i : i + 1]) for i in range(4)]
    torch.testing.assert_close(loss(prediction[0], target[0]), torch.stack(rows).mean())


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("mse", "classification", "one of cross_entropy, smoothed_cross_entropy for classif"),
        ("hubert", "regression", r"did you mean 'huber'\?"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(name: str, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loss_of(name, kind)
