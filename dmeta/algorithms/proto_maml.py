"""ProtoMAML: MAML whose last layer starts as a prototypical network's.

Triantafillou et al. 2020, "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
Examples" (arXiv:1903.03096), section 3. Snell et al. 2017, eq. 8: for the class means c_w of the
embedding f, -|f(x) - c_w|^2 differs from a linear layer's logits by |f(x)|^2 alone, which is the
same for every class:

    W_w = 2 c_w,   b_w = -|c_w|^2            (computed from the support set, differentiably)
    (f, W, b)_{k+1} = (f, W, b)_k - inner_lr * grad L_support((f, W, b)_k)
    meta-loss(f_0) = L_query((f, W, b)_K)

So the embedding's weights alone are meta-learned, and tasks may have any number of ways.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.adapted_names import adapted_names
from dmeta.algorithms.embeddings import class_means
from dmeta.algorithms.inner_loop import InnerLoop, network_params
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.models.network import Network

WEIGHT, BIAS = "prototypes.weight", "prototypes.bias"


@dataclass(frozen=True)
class ProtoMaml:
    """Adapts an embedding and a last layer that starts at the prototypes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: support and query loss on the logits.
        inner: the inner loop; the last layer is its ``head``.
    """

    network: Network
    loss: Loss
    inner: InnerLoop = InnerLoop()

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Refuses names that are not there, and what is learned for a fixed number of ways."""
        if not set(self._moved) & {WEIGHT, BIAS}:
            return
        why = "for algorithm=proto_maml, whose last layer has as many units as a task has ways"
        if self.inner.learn_inner_lr == "per_element":
            raise ValueError(
                f"algorithm.learn_inner_lr must be per_tensor or per_tensor_and_step {why}, got "
                "per_element; change it, or set algorithm.adapt=body"
            )
        if self.inner.precondition is not None:
            raise ValueError(
                f"algorithm.precondition must be null {why}, got {self.inner.precondition}; "
                "change it, or set algorithm.adapt=body"
            )
        if self.inner.inner_chain is not None and self._learned(1) != self._learned(2):
            raise ValueError(
                f"algorithm.inner_chain must learn nothing of the last layer's shape {why}, got "
                f"{list(self.inner.inner_chain)}; change it, or set algorithm.adapt=body"
            )

    def _learned(self, ways: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what the inner loop learns of a last layer of one input."""
        head = {WEIGHT: torch.zeros(ways, 1), BIAS: torch.zeros(ways)}
        moved = {name: p for name, p in head.items() if name in self._moved}
        return {n: tuple(p.shape) for n, p in self.inner.init_meta_params(moved).items()}

    @property
    def _moved(self) -> tuple[str, ...]:
        head = (WEIGHT, BIAS)
        return adapted_names(self.inner.adapt, (*self.network.names, *head), head)

    def init_meta_params(self) -> Params:
        """The embedding's initial weights, and what the inner loop itself learns."""
        weights = self.network.init_params()
        some = next(iter(weights.values()))
        # Stand-ins: of the last layer no rate needs the shape.
        everything = weights | {WEIGHT: some.new_zeros(()), BIAS: some.new_zeros(())}
        start = {name: everything[name] for name in self._moved}
        return weights | self.inner.init_meta_params(start)

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """The embedding's weights with the last layer's [W, D] and [W]: name -> tensor."""
        body = network_params(meta_params)
        means = class_means(self._embedded(body, support.x), support.y, stage.ways)
        weights = {**body, WEIGHT: 2 * means, BIAS: -means.square().sum(1)}

        def objective(moved: Params, examples: Examples, _: int) -> Tensor:
            return self.loss(self.predict({**weights, **moved}, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start={name: weights[name] for name in self._moved},
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda moved, _: {**weights, **moved},
                depends_on_meta=len(self._moved) < len(weights),
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        return F.linear(self._embedded(adapted, x), adapted[WEIGHT], adapted[BIAS])

    def _embedded(self, params: Params, x: Tensor) -> Tensor:
        body = {name: params[name] for name in self.network.names}
        return self.network.apply(body, x).flatten(1)
