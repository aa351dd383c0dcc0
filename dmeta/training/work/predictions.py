"""What is computed of the tasks of a block, and put together from its groups.

Letters: S support examples, Q query examples, K inner steps at evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.algorithms.algorithm import Algorithm
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.surrogates import predict_apart, predict_queries
from dmeta.bilevel.types import Adapted, Params, Stage, Task
from dmeta.training.work.scores import MODES, TARGET, predictions_key


def predict_task(
    algorithm: Algorithm, meta_params: Params, task: Task, stage: Stage
) -> dict[str, Tensor]:
    """Query predictions of one task after 0, 1, ..., K inner steps.

    Returns:
        ``transductive_prediction`` [K+1, Q, ...]: the query set is predicted as one batch, so batch
        statistics see all of it; ``non_transductive_prediction`` [K+1, Q, ...]: batch statistics
        are those of the support set alone. The same where the network has no batch statistics, or
        never those of queries.
        ``target`` [Q, ...].
    """
    path: list[Adapted] = []
    final = algorithm.adapt(meta_params, task.support, recording(path.append), stage)
    states = path or [final]
    together = torch.stack([predict_queries(algorithm, state, task) for state in states])
    apart = together
    if algorithm.network.mixes_examples and not algorithm.network.queries_apart:
        apart = torch.stack([predict_apart(algorithm, state, task) for state in states])
    keys = [predictions_key(mode) for mode in MODES]
    return {**dict(zip(keys, (together, apart), strict=True)), TARGET: task.query.y}


def summed(reported: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Name -> sum over the tasks of all groups."""
    sums: dict[str, float] = {}
    for group in reported:
        for name, value in group.items():
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())
    return sums


def in_place(
    found: Sequence[Mapping[str, npt.NDArray[np.float32]]], places: Sequence[Sequence[int]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> [num_slots, ...], from the groups' arrays."""
    order = np.argsort(np.concatenate(places))
    return {name: np.concatenate([group[name] for group in found])[order] for name in found[0]}
