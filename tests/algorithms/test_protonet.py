"""Prototypical networks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import (
    make_algorithm,
)


def test_prototypes_are_class_means_and_the_nearest_one_wins() -> None:
    """Snell et al. 2017, eq. 1 and 2, by hand, in an embedding that is the input itself."""
    identity = Network.of(nn.Flatten())
    learner = make_algorithm("protonet", identity, F.cross_entropy)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]])
    support = Examples(x, torch.tensor([1, 1, 0]))
    adapted = learner.adapt({}, support, stop_gradient, Stage(training=True, ways=3))
    prototypes = torch.tensor([[5.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # class 2 has no example
    assert torch.equal(adapted["prototypes"], prototypes)
    queries = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    logits = learner.predict(adapted, queries)
    assert torch.equal(logits, -((queries[:, None] - prototypes) ** 2).sum(-1))
    assert logits.argmax(1).tolist() == [0, 1]
