"""A trained few-shot learner, used on your own data. `Learner` knows no Ray and no config.

Letters: S support examples, N examples to predict, W classes.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm
from dmeta.algorithms.prediction import Predictor
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.types import Adapted, Examples, Kind, Params, Stage
from dmeta.runs.checkpoint import Checkpoint
from dmeta.training.build import num_outputs_of
from dmeta.training.setup import Run
from dmeta.training.work.input_format import Array, InputFormat, read_values
from dmeta.training.work.labels import read_labels


@dataclass(frozen=True, repr=False)
class AdaptedLearner:
    """A learner that has learnt one task.

    Attributes:
        algorithm: its method.
        adapted: what it learnt.
        support_x: [S, *input_shape], for batch statistics.
        inputs: what its inputs must be.
        classes: the W labels of the support set, in the order of the logits; of a regression None.
        resize: whether images of other sizes are resized.
    """

    algorithm: Algorithm
    adapted: Adapted
    support_x: Tensor
    inputs: InputFormat
    classes: tuple[Hashable, ...] | None = None
    resize: bool = False

    def predict(self, x: Array, *, transductive: bool = False) -> Any:
        """Logits [N, W] (classification, column w is of ``classes[w]``) or values [N, *output].

        Args:
            x: N examples, as for `Learner.adapt`; a tensor gives a tensor, anything else a numpy
                array.
            transductive: take batch statistics over these N together (as published MAML results
                do) instead of over the support set, where one prediction does not depend on the
                others. No difference for networks without batch statistics.

        Raises:
            ValueError: x is not what the learner takes; the message says what to change.
        """
        out = self._outputs(x, transductive=transductive)
        return out if isinstance(x, Tensor) else out.cpu().numpy()

    def predict_probabilities(self, x: Array, *, transductive: bool = False) -> Any:
        """The softmax of `predict`: [N, W], rows add up to 1.

        Raises:
            ValueError: as `predict`; or this is a regression.
        """
        self._classes()
        out = self._outputs(x, transductive=transductive).softmax(-1)
        return out if isinstance(x, Tensor) else out.cpu().numpy()

    def predict_labels(self, x: Array, *, transductive: bool = False) -> list[Hashable]:
        """The most probable label of each of N examples, one of `classes`.

        Raises:
            ValueError: as `predict`; or this is a regression, or the logits are not finite.
        """
        classes = self._classes()
        out = self._outputs(x, transductive=transductive)
        wrong = int((~out.isfinite().all(-1)).sum())
        if wrong:
            raise ValueError(
                f"logits must be finite to name a class, got NaN or infinity for {wrong} of "
                f"{len(out)} examples: the adaptation diverged; lower inner_steps, or retrain with "
                "a lower algorithm.inner_lr"
            )
        return [classes[column] for column in out.argmax(-1).tolist()]

    def _outputs(self, x: Array, *, transductive: bool) -> Tensor:
        inputs = self.inputs.read("x", x, resize=self.resize).to(self.support_x.device)
        out = self._predictor.predict(inputs, transductive=transductive)
        # A network of more outputs than the task has classes: the others are no class of it.
        return out if self.classes is None else out[..., : len(self.classes)]

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.algorithm, self.adapted, self.support_x)

    def _classes(self) -> Sequence[Hashable]:
        if self.classes is None:
            raise ValueError(
                "labels and probabilities must be of a classification, got a regression; "
                "call predict"
            )
        return self.classes

    def __repr__(self) -> str:
        what = "" if self.classes is None else f"classes={reprlib.repr(self.classes)}, "
        return (
            f"AdaptedLearner({type(self.algorithm).__name__}, {what}"
            f"support examples={len(self.support_x)}, input_shape={self.inputs.shape})"
        )


@dataclass(frozen=True, repr=False)
class Learner:
    """A meta-trained learner.

    Attributes:
        algorithm: its method, in evaluation mode.
        meta_params: name -> float tensor.
        kind: classification or regression.
        inputs: what its examples must be.
        step: outer steps it was trained for.
        ways: most classes of a task; None: any number (the method embeds), or a regression.
    """

    algorithm: Algorithm
    meta_params: Params
    kind: Kind
    inputs: InputFormat
    step: int
    ways: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example, as the network sees it."""
        return self.inputs.shape

    def adapt(
        self,
        support_x: Array,
        support_y: Any,
        inner_steps: int | None = None,
        *,
        resize: bool = False,
    ) -> AdaptedLearner:
        """Learn one task.

        Args:
            support_x: S examples: [S, *input_shape] floats as the network sees them. Of a run on
                images: floats in 0..1, channels first, or uint8, channels last or first, which is
                converted as in training. Of a learner that was loaded with ``source=``: what that
                source's preprocess takes.
            support_y: S labels of any hashable kind, or [S, *output_shape] values. The distinct
                labels, sorted, are the columns of the logits (`AdaptedLearner.classes`): labels
                0..W-1 are columns themselves.
            inner_steps: instead of the run's eval_inner_steps, for a method that has them.
            resize: resize images of other sizes, here and in the predictions. Their colours are
                not converted: a learner of grey images takes those of one channel.

        Raises:
            ValueError: shapes, values or labels do not fit; the message says what to change.
        """
        if inner_steps is not None and not (isinstance(inner_steps, int) and inner_steps >= 0):
            raise ValueError(
                f"inner_steps must be a whole number >= 0 or None, got {inner_steps!r}; change it"
            )
        x = self.inputs.read("support_x", support_x, resize=resize)
        if len(x) == 0:
            raise ValueError("support_x must have at least one example, got none; give some")
        device = next(iter(self.meta_params.values())).device
        classes, ways = None, 1
        if self.kind == "classification":
            y, classes = read_labels("support_y", support_y, len(x), self.ways)
            ways = len(classes)
        else:
            y = read_values("support_y", support_y, len(x), self.inputs.target_shape)
        support = Examples(x.to(device), y.to(device))
        with torch.no_grad():
            solve = recording(lambda _: None)
            stage = Stage(training=False, ways=ways, inner_steps=inner_steps)
            adapted = self.algorithm.adapt(self.meta_params, support, solve, stage)
        return AdaptedLearner(self.algorithm, adapted, support.x, self.inputs, classes, resize)

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.meta_params.values())
        ways = "any number of ways" if self.ways is None else f"{self.ways} ways"
        of = self.kind if self.kind == "regression" else f"{self.kind} of {ways}"
        return (
            f"Learner({type(self.algorithm).__name__}, {of}, {size:,} meta-parameters, "
            f"input_shape={self.inputs.shape}, step={self.step})"
        )


def learner_of(run: Run, checkpoint: Checkpoint) -> Learner:
    """The learner that a checkpoint of this run holds."""
    params = run.work.layout.unflatten(run.work.layout.flatten(checkpoint.meta_params()))
    network = run.algorithm.network.to("cpu", training=False)
    algorithm = dataclasses.replace(run.algorithm, network=network)  # type: ignore[type-var]
    ways = num_outputs_of(algorithm, run.source, run.config)
    return Learner(
        algorithm,
        params,
        run.source.kind,
        run.inputs,
        checkpoint.step,
        ways if run.source.kind == "classification" else None,
    )
