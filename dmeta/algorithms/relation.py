"""Relation networks: a learned comparison of each example with each class.

Sung, Yang, Zhang, Xiang, Torr & Hospedales 2018, "Learning to Compare: Relation Network for
Few-Shot Learning" (arXiv:1711.06025), eq. 1 and 2, section 3.3. With the maps f(x) of the embedding
and the relation module g (`dmeta.algorithms.relation_scores`),

    r_w(x) = sigmoid(g([sum over the support examples x_i of class w of f(x_i), f(x)]))
    loss   = mean over N x W pairs of (r_w(x) - 1[x is of class w])^2

The logits are g, before its sigmoid. With ``algorithm.objective=cross_entropy`` the loss is that of
their softmax, as in the code of Chen et al. 2019 (arXiv:1904.04232). There is no inner loop.

The embedding ends in maps: of a model that is a plain `nn.Sequential` the last layers that flatten
a map or take its mean are left off. A model whose output is no map of [channels, height, width]
gives vectors, and g is a multi-layer perceptron on two of them. g has batch-norms if the model has
any, with statistics of the same examples: their pairs with all classes.

Differs from the paper: the embedding is the run's model; the authors' is ``model=conv4
model.num_pools=2 model.unpadded_blocks=2``, on images that they normalise. One outer rate and
one bound of the gradient's norm for embedding and g together.

Letters: N examples to predict, S support examples, W ways, C channels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.embeddings import class_means, feature_shape, one_hot, some_weight
from dmeta.algorithms.relation_scores import NORMS, init_module, logits_of_pairs
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.models.norms import Statistics
from dmeta.options import check_fields


@dataclass(frozen=True)
class ScoreLoss:
    """The squared error of each score: [N, W] logits of scores, [N] labels."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean over all pairs: []."""
        is_same = one_hot(target, prediction.shape[1], prediction)
        return F.mse_loss(prediction.sigmoid(), is_same)


@dataclass(frozen=True)
class Relation:
    """Scores of pairs of an example and a class, by a learned relation module.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, C, height, width] or [N, C].
        loss: query loss on the logits, with ``objective=cross_entropy``.
        input_shape: of one example.
        objective: ``mse``, the squared error of each score, as published; or ``cross_entropy``:
            the run's ``loss``, on the logits of the classes.
        combine_shots: ``sum`` of the support maps of a class, as published; or ``mean``, which does
            not grow with the number of shots.
        relation_filters: channels of the relation module's convolutions.
        relation_hidden: width of its hidden linear layer.
        init_seed: of its initial weights.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    objective: Literal["mse", "cross_entropy"] = "mse"
    combine_shots: Literal["sum", "mean"] = "sum"
    relation_filters: PositiveInt = 64
    relation_hidden: PositiveInt = 8
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __post_init__(self) -> None:
        """Check the fields; keep the maps of the network; choose the loss."""
        check_fields(self, "algorithm", but=PROVIDED)
        object.__setattr__(self, "network", _ending_in_maps(self.network))
        if self.objective == "mse" and not isinstance(self.loss, ScoreLoss):
            _check_unused(self.loss)
            object.__setattr__(self, "loss", ScoreLoss())

    def init_meta_params(self) -> Params:
        """The network's initial weights and the relation module's (`init_module`)."""
        weights = self.network.init_params()
        shape = feature_shape(self.network, self.input_shape)
        module = init_module(
            shape if len(shape) == 3 else (shape.numel(),),
            self.relation_filters,
            self.relation_hidden,
            self.init_seed,
            some_weight(weights),
            norms=self.network.mixes_examples,
        )
        return {**weights, **module}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """``classes`` [W, C, ...] in addition to the ``weights``; 0 for a class of no examples."""
        embedded = self._embedded(meta_params, support.x)
        rows = embedded.flatten(1)
        if self.combine_shots == "mean":
            combined = class_means(rows, support.y, stage.ways)
        else:
            combined = one_hot(support.y, stage.ways, rows).T @ rows
        return {"weights": meta_params, "classes": combined.view(-1, *embedded.shape[1:])}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits of the scores [N, W]."""
        network, classes = self.network, adapted["classes"]
        embedded = self._embedded(adapted["weights"], x)
        at = _pair_statistics(network, len(classes))
        with network.layer_precision(x.device):
            logits = logits_of_pairs(adapted["weights"], classes, embedded, at)
        if network.recorded is not None and at.recorded:
            network.recorded[-1] += tuple(at.recorded)  # of the same pass as the embedding's
        return logits.to(embedded.dtype)

    def _embedded(self, weights: Params, x: Tensor) -> Tensor:
        """[N, *input_shape] -> maps [N, C, height, width] or vectors [N, C]."""
        out = self.network.apply({name: weights[name] for name in self.network.names}, x)
        return out if out.dim() == 4 else out.flatten(1)


def _pair_statistics(network: Network, ways: int) -> Statistics:
    """Those of the pairs with the examples of which the network takes its own."""
    return Statistics(
        None if network.statistics_rows is None else network.statistics_rows * ways,
        None if network.moments is None else iter(network.moments[-len(NORMS) :]),
        None if network.recorded is None else [],
    )


def _ending_in_maps(network: Network) -> Network:
    """The network without the last layers of a sequence that flatten a map or take its mean."""
    module = network.module
    # A subclass may compute something else; so may hooks, which a part would not have.
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        return network
    kept = len(module)
    while kept > 1 and isinstance(module[kept - 1], nn.Flatten | nn.AdaptiveAvgPool2d):
        kept -= 1
    return network if kept == len(module) else dataclasses.replace(network, module=module[:kept])


def _check_unused(loss: Loss) -> None:
    """Raises ValueError if a loss was chosen that is not the one of every method."""
    logits, labels = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, -3.0]]), torch.tensor([0, 2])
    try:
        usual = bool(loss(logits, labels) == F.cross_entropy(logits, labels))
    except (RuntimeError, ValueError, TypeError, IndexError):
        usual = False
    if not usual:
        raise ValueError(
            "algorithm.objective must be cross_entropy for a loss of your own choice, got mse; set "
            "algorithm.objective=cross_entropy, or remove loss"
        )
