"""Trains a new last layer on the frozen features of a task's support set.

As the code of Chen et al. 2019 does (github.com/wyharveychen/CloserLookFewShot): stochastic
gradient descent with momentum, dampening and weight decay, in small mini-batches, each epoch in
another random order.

    g = grad L(batch; w) + weight_decay w
    v = g in the first step, then momentum v + (1 - dampening) g
    w = w - lr v

Letters: S support examples, D dimensions of the features, W ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.func import grad

from dmeta.bilevel.types import Examples, Params
from dmeta.options import check_fields
from dmeta.randomness import random_order, random_uniform


@dataclass(frozen=True)
class HeadTraining:
    """How a task's last layer is trained; each field is a key of ``algorithm`` in a config.

    Attributes:
        head_lr: learning rate.
        head_epochs: times that the support set is gone through.
        head_batch_size: support examples of a step.
        head_momentum: factor of the step before.
        head_dampening: the gradient enters the momentum with factor 1 - this.
        head_weight_decay: factor of the weights that is added to their gradient.
    """

    head_lr: PositiveFloat = 0.01
    head_epochs: PositiveInt = 100
    head_batch_size: PositiveInt = 4
    head_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    head_dampening: Annotated[float, Field(ge=0, lt=1)] = 0.9
    head_weight_decay: NonNegativeFloat = 1e-3

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm")

    def train(
        self,
        loss: Callable[[Params, Examples], Tensor],
        start: Params,
        features: Examples,
        seed: int | Tensor,
    ) -> dict[str, Tensor]:
        """The layer's weights after the last epoch.

        Args:
            loss: (weights, features [n, D] with labels [n]) -> scalar mean.
            start: name -> weights at first.
            features: x [S, D] and y [S] of the support set.
            seed: of the orders.
        """
        weights = dict(start)
        momentum: dict[str, Tensor] | None = None
        for epoch in range(self.head_epochs):
            order = random_order(seed, f"epoch {epoch}", len(features.y), features.y.device)
            for first in range(0, len(features.y), self.head_batch_size):
                rows = order[first : first + self.head_batch_size]
                batch = Examples(features.x[rows], features.y[rows])
                gradient = grad(loss)(weights, batch)
                decayed = {
                    name: gradient[name] + self.head_weight_decay * w for name, w in weights.items()
                }
                if momentum is None:
                    momentum = decayed
                else:
                    momentum = {
                        name: self.head_momentum * v + (1 - self.head_dampening) * decayed[name]
                        for name, v in momentum.items()
                    }
                weights = {name: w - self.head_lr * momentum[name] for name, w in weights.items()}
        return weights


def random_layer(seed: int | Tensor, ways: int, like: Tensor) -> Tensor:
    """Weights [W, D] as `torch.nn.Linear` draws them, for features like [S, D]."""
    width = like.shape[1]
    drawn = random_uniform(seed, "layer", (ways, width), like.device).to(like)
    bound: Tensor = (2 * drawn - 1) / width**0.5
    return bound
