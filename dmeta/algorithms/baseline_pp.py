"""Baseline++: as the baseline, with last layers that compare directions.

Chen, Liu, Kira, Wang & Huang 2019, "A Closer Look at Few-shot Classification" (arXiv:1904.04232),
section 3.2. The logit of class c, in training and for a task, is

    scale g_c cos(f(x), v_c)

with v_c [D] and g_c [] learned. In training f and the layer of all training classes learn from
mini-batches; for a task f is frozen and a new layer is trained on the features of its support set
(`dmeta.algorithms.head_training`).

The paper does not have g_c, the authors' code has (`torch.nn.utils.weight_norm`): it starts at
|v_c|, as there.

Letters: S support examples, N examples to predict, W ways, C training classes, D dimensions of the
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms.base_classes import BIAS, WEIGHT, with_base_classifier
from dmeta.algorithms.embeddings import cosines, embed_examples
from dmeta.algorithms.head_training import HeadTraining, random_layer
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Examples, Kind, Loss, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

NORM = "base_classes/norm"
"""Name of g [C] of the training classes."""

_FEW_CLASSES = 200


@dataclass(frozen=True)
class BaselinePlusPlus:
    """A cosine layer on the features of a network that was trained on all training classes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training, and of a task's support set.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        scale: factor of the cosines; None: 2 for a layer of up to 200 classes, 10 above, as in the
            authors' code.
        init_seed: of the initial layer of the training classes.
        head: how a task's layer is trained.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    scale: PositiveFloat | None = None
    init_seed: int = 0
    head: HeadTraining = HeadTraining()

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=(*PROVIDED, "head"))

    def init_meta_params(self) -> Params:
        """The network's initial weights; v [C, D] and g [C] of the training classes."""
        params = with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )
        del params[BIAS]
        return {**params, NORM: params[WEIGHT].norm(dim=1)}

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - no inner problem
        stage: Stage,
    ) -> dict[str, Any]:
        """The last layer ``direction`` [W, D] and ``norm`` [W], in addition to the ``weights``."""
        if stage.training:
            layer = {"direction": meta_params[WEIGHT], "norm": meta_params[NORM]}
            return {"weights": meta_params, **layer}
        embedded = embed_examples(self.network, meta_params, support.x)
        direction = random_layer(stage.task_seed, stage.ways, embedded)

        def loss(layer: Params, features: Examples) -> Tensor:
            return self.loss(self._logits(layer, features.x), features.y)

        start = {"direction": direction, "norm": direction.norm(dim=1)}
        features = Examples(embedded, support.y)
        layer = self.head.train(loss, start, features, stage.task_seed)
        return {"weights": meta_params, **layer}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W]."""
        return self._logits(adapted, embed_examples(self.network, adapted["weights"], x))

    def _logits(self, layer: Params, embedded: Tensor) -> Tensor:
        norm = layer["norm"]
        few = len(norm) <= _FEW_CLASSES
        scale = self.scale if self.scale is not None else (2.0 if few else 10.0)
        return scale * norm * cosines(embedded, layer["direction"])
