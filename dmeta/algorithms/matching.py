"""Matching networks: attention over the support examples in a learned embedding.

Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra 2016, "Matching Networks for One Shot Learning"
(arXiv:1606.04080), eq. 1 and section 2.1:

    P(w | x) = sum over support examples x_i of class w of softmax_i(scale cos(f(x), g(x_i)))

The logits are log sum exp(scale cos(f(x), g(x_i))) over the x_i of class w: their softmax is P, so
cross-entropy is -log P, the paper's loss, without a logarithm of an attention that is rounded to 0.
Without ``algorithm.full_context`` f = g is the network; with it both depend on the whole support
set (`dmeta.algorithms.full_context`). There is no inner loop.

Differs from the paper: it has no scale, which is 1 unless it is set; attention is then far from
one class alone, and training is slower (glyphs, 120 steps of 8 tasks, seed 0, accuracy on 200 test
tasks, non-transductive: 74.2 +- 1.7% with 1, 88.4 +- 1.3% with 10). f and g share one network.
With full context the query's LSTM starts from the embedding itself, and the embedding and what is
read are its input, as in the code of Chen et al. 2019 (arXiv:1904.04232); that code takes as many
steps as there are support examples, here the number is a setting. The support set is read in a
random order, which is drawn for each task, at evaluation too: so its order does not matter on
average, and one task has the same result every time.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms import full_context
from dmeta.algorithms.embeddings import (
    class_log_sums,
    cosines,
    embed_examples,
    num_features,
    one_hot,
    some_weight,
)
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields, refuse_unread
from dmeta.randomness import random_order


@dataclass(frozen=True)
class MatchingNet:
    """Attention over the support examples in the network's embedding.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
        input_shape: of one example.
        scale: factor of the cosines; the paper has 1, with 10 training is faster.
        full_context: embed every example in the context of the whole support set, by LSTMs.
        context_steps: steps of the LSTM that embeds a query (only with ``full_context=true``).
        init_seed: of the LSTMs' initial weights.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    scale: PositiveFloat = 1.0
    full_context: bool = False
    context_steps: PositiveInt = 5
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)
        if not self.full_context:
            refuse_unread(self, ["context_steps"], "algorithm", "algorithm.full_context=true")

    def init_meta_params(self) -> Params:
        """The network's initial weights, and with full context those of three LSTMs."""
        weights = self.network.init_params()
        if not self.full_context:
            return weights
        like = some_weight(weights)
        width = num_features(self.network, self.input_shape)
        return {**weights, **full_context.init_lstms(width, self.init_seed, like)}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``embedded`` [S, D] and ``members`` [S, W], in addition to the ``weights``."""
        embedded, labels = embed_examples(self.network, meta_params, support.x), support.y
        if self.full_context:
            order = random_order(stage.task_seed, "order", len(labels), labels.device)
            embedded = full_context.embed_support(meta_params, embedded[order])
            labels = labels[order]
        members = one_hot(labels, stage.ways, embedded)
        return {"weights": meta_params, "embedded": embedded, "members": members}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        weights, context = adapted["weights"], adapted["embedded"]
        embedded = embed_examples(self.network, weights, x)
        if self.full_context:
            embedded = full_context.embed_queries(weights, embedded, context, self.context_steps)
        return class_log_sums(self.scale * cosines(embedded, context), adapted["members"])
