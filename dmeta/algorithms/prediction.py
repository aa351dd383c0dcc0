"""Predictions of a learner that has learnt one task.

Letters: S support examples, N examples to predict, W ways.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm, with_network
from dmeta.bilevel.types import Adapted
from dmeta.models.norms import Moments


@dataclass(frozen=True, repr=False)
class Predictor:
    """What an algorithm adapted to one task.

    Attributes:
        algorithm: the method, its network in evaluation mode.
        adapted: the adapted state.
        support_x: [S, *input_shape], for batch statistics.
    """

    algorithm: Algorithm
    adapted: Adapted
    support_x: Tensor

    def predict(self, x: Tensor, *, transductive: bool = False) -> Tensor:
        """Logits [N, W] or values [N, ...], without a graph.

        Args:
            x: [N, *input_shape], of the support set's type and on its device.
            transductive: take batch statistics over these N together (as published MAML results
                do) instead of over the support set, where one prediction does not depend on the
                others. No difference for networks without batch statistics, and for those whose
                queries never see each other (``batch_norm=task_norm``).
        """
        algorithm = self.algorithm
        with torch.no_grad():
            together = transductive and not algorithm.network.queries_apart
            if together or not algorithm.network.mixes_examples:
                return algorithm.predict(self.adapted, x)
            if self._on_support_statistics is not None:
                return self._on_support_statistics.predict(self.adapted, x)
            rows = len(self.support_x)
            apart = with_network(algorithm, algorithm.network.with_statistics_of_first(rows))
            return apart.predict(self.adapted, torch.cat([self.support_x, x]))[rows:]

    @functools.cached_property
    def _on_support_statistics(self) -> Algorithm | None:
        """The method on the batch statistics of the support set, which is run once for them.

        None: it calls its network several times, each with statistics of its own.
        """
        recorded: list[tuple[Moments, ...]] = []
        network = self.algorithm.network
        method = with_network(self.algorithm, network.recording_moments(recorded))
        method.predict(self.adapted, self.support_x)
        if len(recorded) != 1:
            return None
        return with_network(self.algorithm, network.with_moments(recorded[0]))

    def __repr__(self) -> str:
        name, rows = type(self.algorithm).__name__, len(self.support_x)
        return f"Predictor({name}, support examples={rows})"
