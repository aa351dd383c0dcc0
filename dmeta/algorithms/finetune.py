"""Fine-tuning: pre-train a classifier of all training classes, fine-tune all of it on each task.

Dhillon, Chaudhari, Ravichandran & Soatto 2020, "A Baseline for Few-Shot Image Classification"
(arXiv:1909.02729), sections 3.1 and 3.2 (without the transductive part). In training, f and a layer
of all training classes learn from mini-batches. For a task the new last layer starts from the
support set, with c_w the mean of f over the support examples of class w,

    W_w = c_w / |c_w|,   b_w = 0

and then f, W and b are fine-tuned by gradient steps on the support loss. With
``algorithm.adapt=head`` only the layer is.

Differs from the paper: the new layer is put on the embedding, not on the logits of the training
classes; the steps are plain gradient descent unless the inner loop is set otherwise (the paper
takes 25 of Adam with rate 5e-5).

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.adapted_names import adapted_names
from dmeta.algorithms.base_classes import base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import class_means, embed_examples, unit_rows
from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.models.network import Network

WEIGHT, BIAS = "task_layer.weight", "task_layer.bias"
"""Names of a task's last layer, in `algorithm.adapt` too."""

_WHY = "with algorithm=finetune, which takes inner steps at evaluation alone"


@dataclass(frozen=True)
class Finetune:
    """Fine-tunes a network that was trained on all training classes.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, D].
        loss: of the mini-batches in training, and of a task's support set.
        input_shape: of one example.
        num_base_classes: classes of the training split.
        init_seed: of the initial layer of the training classes.
        inner: the steps on a task; the task's layer is their ``head``.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    num_base_classes: PositiveInt
    init_seed: int = 0
    inner: InnerLoop = InnerLoop(inner_lr=0.01, inner_steps=0, eval_inner_steps=25)

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses inner steps in training."""
        if self.inner.most_inner_steps or self.inner.multi_step_loss_until:
            raise ValueError(
                "algorithm.inner_steps, inner_steps_max and multi_step_loss_until must be 0 or "
                f"null {_WHY}, got {self.inner.inner_steps}, {self.inner.inner_steps_max} and "
                f"{self.inner.multi_step_loss_until}; set algorithm.eval_inner_steps"
            )

    def init_meta_params(self) -> Params:
        """The network's initial weights, and the layer of the training classes.

        Raises:
            ValueError: the inner loop has parts that only training on tasks could learn.
        """
        if learned := self.inner.init_meta_params(self.network.init_params()):
            raise ValueError(
                f"algorithm must be without learned parts of an inner loop {_WHY}, got "
                f"{next(iter(learned))}; remove the key that asks for it (such as learn_inner_lr)"
            )
        return with_base_classifier(
            self.network, self.input_shape, self.num_base_classes, self.init_seed
        )

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """The embedding's weights with the last layer's [W, D] and [W]: name -> tensor."""
        body = {name: meta_params[name] for name in self.network.names}
        if stage.training:
            layer = base_classifier(meta_params)
            return {**body, WEIGHT: layer["weight"], BIAS: layer["bias"]}
        means = class_means(embed_examples(self.network, body, support.x), support.y, stage.ways)
        weights = {**body, WEIGHT: unit_rows(means), BIAS: means.new_zeros(stage.ways)}
        moved = adapted_names(self.inner.adapt, tuple(weights), (WEIGHT, BIAS))

        def objective(iterate: Params, examples: Examples, _: int) -> Tensor:
            return self.loss(self.predict({**weights, **iterate}, examples.x), examples.y)

        return solve(
            self.inner.problem(
                objective=objective,
                start={name: weights[name] for name in moved},
                meta_params=meta_params,
                support=support,
                stage=stage,
                finish=lambda iterate, _: {**weights, **iterate},
                depends_on_meta=len(moved) < len(weights),
            )
        )

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W], or those of the training classes in training."""
        return F.linear(embed_examples(self.network, adapted, x), adapted[WEIGHT], adapted[BIAS])
