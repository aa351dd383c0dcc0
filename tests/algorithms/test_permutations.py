"""Methods that compare embeddings: the order of examples and of classes does not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples
from tests.bilevel.problems import EVALUATION, first_task, problem

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "protonet": ("protonet", {}),
    "protonet, cosine": ("protonet", {"distance": "cosine"}),
    "feat": ("feat", {}),
    "siamese": ("siamese", {}),
    "relation": ("relation", {}),
    "cnaps": ("cnaps", {}),
    "cnaps, Mahalanobis": ("cnaps", {"head": "mahalanobis"}),
    "tsa": ("tsa", {}),
    "url": ("url", {}),
    "matching": ("matching", {}),
    "matching, full context": ("matching", {"full_context": True}),
}
READS_IN_ORDER = "matching, full context"


def predict(at: Any, support: Examples, x: Tensor) -> Tensor:
    adapted = at.algorithm.adapt(at.params, support, stop_gradient, EVALUATION)
    out: Tensor = at.algorithm.predict(adapted, x)
    return out


@pytest.mark.parametrize("method", [name for name in METHODS if name != READS_IN_ORDER])
def test_the_order_of_the_support_set_does_not_matter(method: str) -> None:
    name, options = METHODS[method]
    at = problem("mlp", algorithm=name, **options)
    (x, y), query = first_task(at)
    order = torch.tensor([4, 0, 5, 3, 1, 2])
    got = predict(at, Examples(x[order], y[order]), query.x)
    torch.testing.assert_close(got, predict(at, Examples(x, y), query.x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_swap_their_labels_swap_their_logits(method: str) -> None:
    name, options = METHODS[method]
    at = problem("mlp", algorithm=name, **options)
    (x, y), query = first_task(at)
    to = torch.tensor([2, 0, 1])
    got = predict(at, Examples(x, to[y]), query.x)[:, to]
    torch.testing.assert_close(got, predict(at, Examples(x, y), query.x), rtol=0, atol=1e-12)
