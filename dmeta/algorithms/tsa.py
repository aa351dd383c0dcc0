"""TSA: adapters in the convolutions and a map of the features, learned for each task.

Li, Liu & Bilen 2022, "Cross-domain Few-shot Learning with Task-specific Adapters"
(arXiv:2107.00358), section 3. In training, f and a layer of all training classes learn from
mini-batches. For a task f is frozen. Each convolution gets an adapter, a matrix A_l [F, C] that is
applied to each pixel in parallel, and the features a map M [D, D] (`dmeta.algorithms.feature_map`);
these descend the loss of the support set, with the class means c_w of its features

    layer_l(h) = conv(h, weight_l) + A_l h,   A_l = 0.0001 I and M = I at first
    logits_w(x) = scale cos(M f(x), c_w),   c_w = mean of M f(x_i) over class w
    (A, M) = Adadelta steps on L_support

A_l h is a convolution of 1x1 with the stride of the layer's own, and so the same as A_l added to
the middle of the layer's kernel. Adapted are convolutions with an odd kernel and as much padding as
keeps the middle on the image; of a network without any, M alone is learned (as in Li et al. 2021,
arXiv:2103.13841, section 3.3, and with ``algorithm.adapters=false`` for every network).

Differs from the paper: f is trained on one data set, not distilled from classifiers of several. Its
batch-norms take the statistics of the support set. All such convolutions are adapted, there those
of 3x3 in residual blocks. The rates are those of the authors' code (github.com/VICO-UoE/URL) for
data sets that were not trained on; there they are 0.05 and 0.1 for others.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding, C
channels in and F channels out of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from dmeta.algorithms.base_classes import base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import embed_examples
from dmeta.algorithms.feature_map import MAP, FeatureMap, More
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields, refuse_unread

ADAPTER = "tsa/adapter/"
"""Of what a task learns besides M: a prefix of the names of the convolutions' weights."""

_FIRST_ADAPTER = 1e-4  # times the identity


@dataclass(frozen=True)
class Tsa:
    """Nearest class means by cosine, in features that are adapted to a task.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training, and of a task's support set.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        adapters: whether convolutions have adapters; false: the map of the features alone.
        adapter_lr: learning rate of adapters (only with ``adapters=true``).
        features: how the map of a task's features is learned, and the adapters with it.
        init_seed: of the initial layer of the training classes.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    adapters: bool = True
    adapter_lr: PositiveFloat = 0.5
    features: FeatureMap = FeatureMap()
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)
        if not self.adapters:
            refuse_unread(self, ["adapter_lr"], "algorithm", "algorithm.adapters=true")

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the layer of the training classes."""
        return with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - see `FeatureMap.learn`
        stage: Stage,
    ) -> Adapted | Outcome:
        """``weights`` with adapters, ``means`` [W, D] and the ``map`` [D, D].

        In training the weights as they are, and the layer of the training classes.
        """
        weights = {name: meta_params[name] for name in self.network.names}
        if stage.training:
            return {"weights": weights, **base_classifier(meta_params)}
        embedded = embed_examples(self.network, weights, support.x)

        start = {ADAPTER + name: _first_adapter(weights[name]) for name in self._adapted}

        def features_of(iterate: Params) -> Tensor:
            return embed_examples(self.network, with_adapters(weights, iterate), support.x)

        # Without adapters the features are always the same.
        more = More(start, features_of, self.adapter_lr) if start else None
        learned = self.features.learn(self.loss, embedded, support.y, stage, more)
        changed = with_adapters(weights, learned["iterate"])
        return {"weights": changed, "map": learned["iterate"][MAP], "means": learned["means"]}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W], or those of the training classes in training."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        if "map" not in adapted:
            return F.linear(embedded, adapted["weight"], adapted["bias"])
        return self.features.predict(embedded, adapted["map"], adapted["means"])

    @property
    def _adapted(self) -> tuple[str, ...]:
        return adapted_convolutions(self.network) if self.adapters else ()


def _first_adapter(weight: Tensor) -> Tensor:
    """[F, C], for a convolution's weight [F, C, ...]."""
    return _FIRST_ADAPTER * torch.eye(*weight.shape[:2], dtype=weight.dtype, device=weight.device)


def adapted_convolutions(network: Network) -> tuple[str, ...]:
    """Names of the weights of convolutions that can have an adapter, in the network's order."""
    found = {
        f"{name}.weight".lstrip(".")
        for name, layer in network.module.named_modules()
        if isinstance(layer, _ConvNd) and not layer.transposed and _has_middle(layer)
    }
    return tuple(name for name in network.names if name in found)


def _has_middle(layer: _ConvNd) -> bool:
    """Whether the middle of the kernel sees each pixel that a 1x1 kernel of its stride would."""
    sizes = zip(layer.kernel_size, layer.dilation, strict=True)
    centred = [dilation * (size // 2) for size, dilation in sizes]
    is_padded = layer.padding == "same" or list(layer.padding) == centred
    is_odd = all(size % 2 for size in layer.kernel_size)
    return is_odd and max(layer.kernel_size) > 1 and is_padded and layer.groups == 1


def with_adapters(weights: Params, iterate: Params) -> dict[str, Tensor]:
    """The network's weights, with each adapter [F, C] added to the middle of its kernel."""
    changed = dict(weights)
    for name in (n.removeprefix(ADAPTER) for n in iterate if n.startswith(ADAPTER)):
        w = weights[name]
        middle = torch.zeros(w.shape[2:], dtype=w.dtype, device=w.device)
        middle[tuple(size // 2 for size in w.shape[2:])] = 1
        of_kernel = iterate[ADAPTER + name].view(*w.shape[:2], *(1 for _ in w.shape[2:]))
        changed[name] = w + of_kernel * middle
    return changed
