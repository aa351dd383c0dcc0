"""A trained few-shot learner, used on data of one's own: no Ray, no task source, no config.

Letters: S support examples, N examples to predict, W ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm, with_network
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.types import Adapted, Examples, Kind, Params, Stage

Array: TypeAlias = Tensor | npt.ArrayLike


@dataclass(frozen=True)
class AdaptedLearner:
    """A learner that has learnt one task.

    Attributes:
        algorithm: its method.
        adapted: what it learnt.
        support_x: [S, *input_shape], for batch statistics.
    """

    algorithm: Algorithm
    adapted: Adapted
    support_x: Tensor

    def predict(self, x: Array, *, transductive: bool = False) -> Any:
        """Logits [N, W] (classification) or values [N, *output_shape] (regression).

        Args:
            x: [N, *input_shape], as the network sees it (images as floats in 0..1, channels
                first); a tensor gives a tensor, anything else a numpy array.
            transductive: take batch statistics over these N together (as published MAML results
                do) instead of over the support set, where one prediction does not depend on the
                others. No difference for networks without batch statistics.

        Raises:
            ValueError: x has another shape than the support examples.
        """
        inputs = _floats(x).to(self.support_x.device)
        if inputs.shape[1:] != self.support_x.shape[1:]:
            raise ValueError(
                f"x must have shape [N, {', '.join(map(str, self.support_x.shape[1:]))}], got "
                f"{list(inputs.shape)}; add or remove a dimension"
            )
        network, rows = self.algorithm.network, self.support_x.shape[0]
        with torch.no_grad():
            if transductive or not network.mixes_examples:
                out = self.algorithm.predict(self.adapted, inputs)
            else:
                apart = with_network(self.algorithm, network.with_statistics_of_first(rows))
                both = torch.cat([self.support_x, inputs])
                out = apart.predict(self.adapted, both)[rows:]
        return out if isinstance(x, Tensor) else out.cpu().numpy()


@dataclass(frozen=True)
class Learner:
    """A meta-trained learner.

    Attributes:
        algorithm: its method, in evaluation mode.
        meta_params: name -> float tensor.
        kind: classification or regression.
        input_shape: of one example.
        step: outer steps it was trained for.
    """

    algorithm: Algorithm
    meta_params: Params
    kind: Kind
    input_shape: tuple[int, ...]
    step: int

    def adapt(
        self, support_x: Array, support_y: Array, inner_steps: int | None = None
    ) -> AdaptedLearner:
        """Learn one task.

        Args:
            support_x: [S, *input_shape] floats, as the network sees them.
            support_y: [S] labels in 0..W-1, or [S, *output_shape] values.
            inner_steps: instead of the run's eval_inner_steps, for a method that has them.

        Raises:
            ValueError: shapes or labels do not fit.
        """
        x = _floats(support_x)
        device = next(iter(self.meta_params.values())).device
        if tuple(x.shape[1:]) != self.input_shape or len(x) == 0:
            raise ValueError(
                f"support_x must have shape [S, {', '.join(map(str, self.input_shape))}] with S >= "
                f"1, got {list(x.shape)}; reshape it"
            )
        y = torch.as_tensor(
            np.asarray(support_y) if not isinstance(support_y, Tensor) else support_y
        )
        y = y.long() if self.kind == "classification" else y.float()
        if len(y) != len(x):
            raise ValueError(
                f"support_y must have {len(x)} rows, got {len(y)}; give one per example"
            )
        ways = int(y.max()) + 1 if self.kind == "classification" else 1
        support = Examples(x.to(device), y.to(device))
        with torch.no_grad():
            solve = recording(lambda _: None)
            stage = Stage(training=False, ways=ways, inner_steps=inner_steps)
            adapted = self.algorithm.adapt(self.meta_params, support, solve, stage)
        return AdaptedLearner(self.algorithm, adapted, support.x)


def _floats(x: Array) -> Tensor:
    return (x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))).float()
