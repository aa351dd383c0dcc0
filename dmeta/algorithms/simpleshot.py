"""SimpleShot: the nearest class mean in the features of a pre-trained network.

Wang, Chao, Weinberger & van der Maaten 2019, "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning" (arXiv:1911.04623), section 3. In training, f and a layer of
all training classes learn from mini-batches. For a task, with m the mean of f over the training
images, features are

    un: f(x)      l2n: f(x) / |f(x)|      cl2n: (f(x) - m) / |f(x) - m|

and the logits are -|z(x) - c_w|^2 with c_w the mean of the features z of class w.

Differs from the paper: there m is computed when training has ended; here it follows the mean of
the mini-batches during training (m <- m - center_rate (m - mean of the mini-batches of a step), as
batch-norm's running mean), so that a run has it at every step.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.base_classes import WEIGHT, base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import (
    class_means,
    embed_examples,
    squared_distances,
    unit_rows,
)
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

CENTER = "simpleshot/center"
"""Name of m [D]."""


@dataclass(frozen=True)
class SimpleShot:
    """Class means of the features of a network that was trained on all training classes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        features: ``un`` (as they are), ``l2n`` (of length 1) or ``cl2n`` (centred, then of length
            1).
        center_rate: by how much of the difference the centre follows a step's mini-batches.
        init_seed: of the initial layer of the training classes.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    features: Literal["un", "l2n", "cl2n"] = "cl2n"
    center_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)

    @property
    def moving_averages(self) -> dict[str, float]:
        """The centre, if there is one."""
        return {CENTER: self.center_rate} if self.features == "cl2n" else {}

    def init_meta_params(self) -> Params:
        """The network's initial weights, the layer of the training classes, and with cl2n m = 0."""
        params = with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )
        if self.features != "cl2n":
            return params
        return {**params, CENTER: torch.zeros_like(params[WEIGHT][0])}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any] | Outcome:
        """``means`` [W, D], in addition to the ``weights``; in training the layer instead."""
        in_training = {"weights": meta_params, **base_classifier(meta_params)}
        if stage.training and self.features != "cl2n":
            return in_training
        embedded = embed_examples(self.network, meta_params, support.x)
        if stage.training:
            away = meta_params[CENTER] - embedded.detach().mean(0)
            return Outcome((in_training,), (1.0,), away.square().sum() / 2)
        means = class_means(self._features(meta_params, embedded), support.y, stage.ways)
        return {"weights": meta_params, "means": means}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W], or those of the training classes in training."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        if "means" not in adapted:
            return F.linear(embedded, adapted["weight"], adapted["bias"])
        return -squared_distances(self._features(adapted["weights"], embedded), adapted["means"])

    def _features(self, meta_params: Params, embedded: Tensor) -> Tensor:
        if self.features == "un":
            return embedded
        return unit_rows(embedded - meta_params[CENTER] if self.features == "cl2n" else embedded)
