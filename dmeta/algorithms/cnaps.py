"""CNAPs: a network modulated for the task, and a classifier, both generated from the support set.

Requeima, Gordon, Bronskill, Nowozin & Turner 2019, "Fast and Flexible Multi-Task Classification
Using Conditional Neural Adaptive Processes" (arXiv:1906.07697), section 2. With the code z of the
task (`dmeta.algorithms.set_encoder`), scales and shifts FiLM(z) of the channels of the network f
(`dmeta.algorithms.feature_modulation`) and c_w the mean of f(x; FiLM(z)) over class w,

    z = mean_i g(x_i),   [w_w, b_w] = h(c_w),   logits_w(x) = w_w . f(x; FiLM(z)) + b_w

where h, the same for all classes, so that there may be any number of them, is two networks of three
dense layers with ELU between; that of w_w has an identity connection. In training the meta-loss has
a second term, l2_weight times the sum of the squares of the factors s and t of all scales and
shifts, which draws these to 1 and 0. With ``algorithm.head=mahalanobis`` there is no h, and

    logits_w(x) = -(f(x) - c_w)' Q_w^-1 (f(x) - c_w)

(Simple CNAPS, Bateni et al. 2020, arXiv:1912.03432; `dmeta.algorithms.mahalanobis`). There is no
inner loop.

Differs from the paper: the network is learned with the rest unless ``learn_backbone=False``; there
it is trained before on ImageNet, and then fixed. Its batch-norms take the statistics of the task.
All normalisation layers are modulated, there those of the residual blocks. Not here is the
auto-regressive variant, whose code of a layer depends on the layers before. Differs from the
authors' code (github.com/cambridge-mlg/cnaps): there the penalty of 0.001 is added for each of the
16 tasks of a step, whose mean the loss is: 0.016 here. Differs from the code of Simple CNAPS
(github.com/peymanbateni/simple-cnaps): a class of one example has covariance 0, there a number that
is added to all elements.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms import feature_modulation, set_encoder
from dmeta.algorithms.dense_layers import dense, init_layer
from dmeta.algorithms.embeddings import class_means, embed_examples, num_features, some_weight
from dmeta.algorithms.feature_modulation import ModulatedLayer
from dmeta.algorithms.mahalanobis import class_statistics, mahalanobis_distances
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

WEIGHT, BIAS = "cnaps/weight", "cnaps/bias"
"""Of the two networks of h; their layers are numbered from 1."""

_NUM_DENSE = 3


@dataclass(frozen=True)
class Cnaps:
    """A network and a classifier that are conditioned on the support set.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: query loss on the logits.
        input_shape: of one example.
        head: ``linear``, a generated classifier, or ``mahalanobis``, distances to class means.
        learn_backbone: meta-learn the network's weights; false: they stay as they are at first, and
            only what modulates them is learned.
        code_size: dimensions of the code of a task.
        l2_weight: weight of the squared factors of scales and shifts in the meta-loss.
        init_seed: of the initial weights besides the network's.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    head: Literal["linear", "mahalanobis"] = "linear"
    learn_backbone: bool = True
    code_size: PositiveInt = 64
    l2_weight: NonNegativeFloat = 0.016
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields, and that there is a layer to modulate."""
        check_fields(self, "algorithm", but=PROVIDED)
        _ = self._layers

    @property
    def constants(self) -> frozenset[str]:
        """The meta-parameters that are not learned: the network's, if so chosen."""
        return frozenset() if self.learn_backbone else frozenset(self.network.names)

    @property
    def _layers(self) -> tuple[ModulatedLayer, ...]:
        return feature_modulation.modulated_layers(self.network)

    def init_meta_params(self) -> Params:
        """The network's initial weights, the set encoder's, the modulation's and those of h."""
        weights = self.network.init_params()
        like, width = some_weight(weights), num_features(self.network, self.input_shape)
        generator = torch.Generator().manual_seed(self.init_seed)
        shape, size = self.input_shape, self.code_size
        weights |= set_encoder.init_encoder(shape, width, size, generator, like)
        weights |= feature_modulation.init_generators(self._layers, weights, size, generator)
        if self.head == "linear":
            for name, outputs in ((WEIGHT, width), (BIAS, 1)):
                inputs = (width, *(outputs for _ in range(_NUM_DENSE - 1)))
                for i, each in enumerate(inputs, start=1):
                    weights |= init_layer(f"{name}{i}", (outputs, each), generator, like)
        return weights

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> Adapted | Outcome:
        """The modulated ``weights`` of the embedding and the classifier.

        That is ``classifier`` [W, D] and ``bias`` [W], or ``means`` [W, D] and ``whitened`` [W, 2S,
        D].
        """
        plain = {name: meta_params[name] for name in self.network.names}
        if not self.learn_backbone:
            plain = {name: p.detach() for name, p in plain.items()}
        code = self._code(meta_params, plain, support.x)
        weights = feature_modulation.modulated(self._layers, meta_params, plain, code)
        embedded = embed_examples(self.network, weights, support.x)
        if self.head == "mahalanobis":
            means, whitened = class_statistics(embedded, support.y, stage.ways)
            adapted = {"weights": weights, "means": means, "whitened": whitened}
        else:
            means = class_means(embedded, support.y, stage.ways)
            classifier = means + _generated(meta_params, WEIGHT, means)
            bias = _generated(meta_params, BIAS, means)[:, 0]
            adapted = {"weights": weights, "classifier": classifier, "bias": bias}
        if not stage.training or self.l2_weight == 0:
            return adapted
        squares = feature_modulation.squared_strengths(self._layers, meta_params)
        return Outcome((adapted,), (1.0,), self.l2_weight * squares)

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        if self.head == "mahalanobis":
            return -mahalanobis_distances(embedded, adapted["means"], adapted["whitened"])
        return F.linear(embedded, adapted["classifier"], adapted["bias"])

    def _code(self, meta_params: Params, plain: Params, x: Tensor) -> Tensor:
        if set_encoder.num_blocks(self.input_shape):
            return set_encoder.encode_images(meta_params, x)
        features = embed_examples(self.network, plain, x)
        return set_encoder.encode_features(meta_params, features)


def _generated(weights: Params, name: str, means: Tensor) -> Tensor:
    """Three dense layers with ELU between: [W, D] to [W, D], or to [W, 1]."""
    rows = means
    for i in range(1, _NUM_DENSE + 1):
        rows = dense(weights, f"{name}{i}", rows)
        rows = F.elu(rows) if i < _NUM_DENSE else rows
    return rows
