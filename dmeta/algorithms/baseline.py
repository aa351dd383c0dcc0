"""Baseline: pre-train a classifier of all training classes, train a new last layer for each task.

Chen, Liu, Kira, Wang & Huang 2019, "A Closer Look at Few-shot Classification" (arXiv:1904.04232),
section 3.2. In training, f and the layer (W, b) of all training classes learn from mini-batches:

    L(softmax(W f(x) + b), y)

For a task, f is frozen and a new linear layer is trained on the features of its support set
(`dmeta.algorithms.head_training`).

Differs from the authors' code: the new layer's bias starts at 0. Its weights are drawn for each
task, as there, so that another order of the classes gives slightly other predictions.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.base_classes import base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import embed_examples
from dmeta.algorithms.head_training import HeadTraining, random_layer
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.models.network import Network


@dataclass(frozen=True)
class Baseline:
    """A linear layer on the features of a network that was trained on all training classes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training, and of a task's support set.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        init_seed: of the initial layer of the training classes.
        head: how a task's layer is trained.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    init_seed: int = 0
    head: HeadTraining = HeadTraining()

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the layer of the training classes."""
        return with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """The last layer ``weight`` [W, D] and ``bias`` [W], in addition to the ``weights``."""
        if stage.training:
            return {"weights": meta_params, **base_classifier(meta_params)}
        embedded = embed_examples(self.network, meta_params, support.x)
        weight = random_layer(stage.task_seed, stage.ways, embedded)

        def loss(layer: Params, features: Examples) -> Tensor:
            return self.loss(F.linear(features.x, **layer), features.y)

        start = {"weight": weight, "bias": weight.new_zeros(stage.ways)}
        features = Examples(embedded, support.y)
        layer = self.head.train(loss, start, features, stage.task_seed)
        return {"weights": meta_params, **layer}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        return F.linear(embedded, adapted["weight"], adapted["bias"])
