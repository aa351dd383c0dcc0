"""FEAT: class means that are adapted to each other, then the nearest one.

Ye, Hu, Zhan & Sha 2020, "Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions"
(arXiv:1812.03664), section 3. With the class means c_w of the embedding f, and self-attention over
them (`dmeta.algorithms.set_attention`),

    (c'_1, ..., c'_W) = attend(c_1, ..., c_W),   logits_w(x) = -|f(x) - c'_w|^2 / temperature

In training the meta-loss has a second term: of each class alone the embeddings are adapted to each
other, and the examples must be nearest to the mean of their own class:

    m_w = mean of attend(f(x_i) of class w)
    meta-loss = L_query + balance * L({-|f(x_i) - m_w|^2 / regulariser_temperature}, y_i)

There is no inner loop.

Differs from the paper and the authors' code (github.com/Sha-Lab/FEAT): x_i above are the support
examples, there the query examples, too, whose labels `adapt` does not have. One outer rate for all
weights, there ten times that of the embedding for the attention's, and no pre-training as a
classifier: for that, train ``algorithm=simpleshot`` first, and begin with its weights
(``model.init_from=RUN``). As in the code and not in the paper, attention weights are dropped out,
too.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from dmeta.algorithms import set_attention
from dmeta.algorithms.embeddings import (
    class_means,
    embed_examples,
    num_features,
    one_hot,
    some_weight,
    squared_distances,
)
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields
from dmeta.randomness import Noise


@dataclass(frozen=True)
class Feat:
    """Class means in the network's embedding, adapted by self-attention.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits, and the regulariser's.
        input_shape: of one example.
        temperature: divides the squared distances.
        balance: weight of the regulariser.
        regulariser_temperature: divides the squared distances in the regulariser.
        dropout: probability that an element of what attention adds is dropped, in training.
        attention_dropout: probability that an attention weight is dropped, in training.
        init_seed: of the attention's initial weights.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    temperature: PositiveFloat = 64.0
    balance: NonNegativeFloat = 1.0
    regulariser_temperature: PositiveFloat = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    def init_meta_params(self) -> Params:
        """The network's initial weights and the attention's (`set_attention.init_attention`)."""
        weights = self.network.init_params()
        like = some_weight(weights)
        width = num_features(self.network, self.input_shape)
        return {**weights, **set_attention.init_attention(width, self.init_seed, like)}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> Adapted | Outcome:
        """``prototypes`` [W, D], adapted, in addition to the ``weights`` of the embedding."""
        noise = Noise(torch.as_tensor(stage.task_seed) if stage.training else None)
        embedded = embed_examples(self.network, meta_params, support.x)
        means = class_means(embedded, support.y, stage.ways)
        prototypes = self._attend(meta_params, means, noise, "prototypes")
        weights = {name: meta_params[name] for name in self.network.names}
        adapted = {"weights": weights, "prototypes": prototypes}
        if not stage.training or self.balance == 0:
            return adapted
        penalty = self.balance * self._regulariser(meta_params, embedded, support.y, stage, noise)
        return Outcome((adapted,), (1.0,), penalty)

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        return -squared_distances(embedded, adapted["prototypes"]) / self.temperature

    def _regulariser(
        self, meta_params: Params, embedded: Tensor, labels: Tensor, stage: Stage, noise: Noise
    ) -> Tensor:
        members = one_hot(labels, stage.ways, embedded)
        of_class = self._attend(meta_params, embedded, noise, "examples", members @ members.T)
        centers = class_means(of_class, labels, stage.ways)
        logits = -squared_distances(embedded, centers) / self.regulariser_temperature
        return self.loss(logits, labels)

    def _attend(
        self,
        meta_params: Params,
        rows: Tensor,
        noise: Noise,
        name: str,
        together: Tensor | None = None,
    ) -> Tensor:
        rates = self.attention_dropout, self.dropout
        return set_attention.attend(meta_params, rows, noise, rates, name, together)
