"""Prototypical networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.protonet import SCALE
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import (
    TRAINING,
    make_algorithm,
    problem,
)

X = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]])
SUPPORT = Examples(X, torch.tensor([1, 1, 0]))
QUERIES = torch.tensor([[4.0, 1.0], [1.0, 3.0]])


def learn(**options: Any) -> tuple[Any, dict[str, Any]]:
    """The method and its state, in an embedding that is the input itself."""
    identity = Network.of(nn.Flatten())
    learner = make_algorithm("protonet", identity, F.cross_entropy, **options)
    params = learner.init_meta_params()
    return learner, learner.adapt(params, SUPPORT, stop_gradient, Stage(training=True, ways=3))


def test_prototypes_are_class_means_and_the_nearest_one_wins() -> None:
    """Snell et al. 2017, eq. 1 and 2, by hand."""
    learner, adapted = learn()
    prototypes = torch.tensor([[5.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # class 2 has no example
    assert torch.equal(adapted["prototypes"], prototypes)
    logits = learner.predict(adapted, QUERIES)
    assert torch.equal(logits, -((QUERIES[:, None] - prototypes) ** 2).sum(-1))
    assert logits.argmax(1).tolist() == [0, 1]


def test_the_cosine_ignores_lengths() -> None:
    learner, adapted = learn(distance="cosine")
    logits = learner.predict(adapted, QUERIES)
    want = torch.cosine_similarity(QUERIES[:, None], adapted["prototypes"], dim=-1)
    torch.testing.assert_close(logits, want)
    torch.testing.assert_close(learner.predict(adapted, 7 * QUERIES), want)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_scale_multiplies_the_logits(distance: str) -> None:
    def logits(**options: Any) -> Tensor:
        learner, adapted = learn(distance=distance, **options)
        out: Tensor = learner.predict(adapted, QUERIES)
        return out

    assert torch.equal(logits(scale=4.0), 4 * logits())
    assert torch.equal(logits(scale=4.0, learn_scale=True), 4 * logits())


def test_a_learned_scale_has_a_gradient_like_every_weight() -> None:
    at = problem("mlp", algorithm="protonet", distance="cosine", scale=3.0, learn_scale=True)
    assert list(at.params)[-1] == SCALE

    def block(scale: Tensor) -> Any:
        params = {**at.params, SCALE: scale}
        return block_gradient("loop", exact, at.algorithm, params, at.tasks, TRAINING)

    scale, h = at.params[SCALE], 1e-5
    difference = (block(scale + h).losses - block(scale - h).losses).sum() / (2 * h)
    torch.testing.assert_close(block(scale).gradients[SCALE], difference, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [("distance", "manhattan", "euclidean"), ("scale", 0.0, "must be > 0")],
)
def test_other_distances_and_scales_are_refused(key: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"algorithm\.{key}.*{rule}"):
        problem("mlp", algorithm="protonet", **{key: value})
