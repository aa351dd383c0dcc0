"""Feature vectors of every example of a data set, from a trained network.

Batch statistics, where the network has them, are those of one fixed draw of training examples, for
every batch: a vector depends on its own example and on training classes, never on what else is
embedded. So no test example sees another one.

Letters: N examples, D features, C classes of all splits together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Params
from dmeta.models.network import Network
from dmeta.tasks.source import SPLITS, ListsExamples, TaskSource
from dmeta.training.work.batching import as_input

_Array = npt.NDArray[Any]


def embedding_params(network: Network, meta_params: Params) -> dict[str, Tensor]:
    """The parameters of an embedding, out of the meta-parameters of a run.

    Args:
        network: the run's model without an output layer.
        meta_params: of the run; may have more than the network needs.

    Raises:
        ValueError: the run has not learned some of them.
    """
    lacking = [
        name
        for name in network.names
        if name not in meta_params or meta_params[name].shape != network.shape_of(name)
    ]
    if lacking:
        raise ValueError(
            "a run that embeds must have learned its network up to the last layer, got one without "
            f"{', '.join(lacking)}; choose a run of protonet, maml or another that learns weights"
        )
    return {name: meta_params[name] for name in network.names}


def embed_source(
    network: Network,
    params: Params,
    source: TaskSource,
    *,
    device: str,
    batch_size: int,
    statistics_examples: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> dict[str, _Array]:
    """The feature vectors of all examples of all splits, as for `dmeta.tasks.feature_files`.

    Args:
        network: the embedding.
        params: its parameters.
        source: where the examples are; must satisfy `ListsExamples`.
        device: ``cpu`` or ``cuda``.
        batch_size: examples at a time.
        statistics_examples: training examples that batch statistics are taken of.
        seed: of the draw of those.
        on_progress: called after each batch with the share of the classes that was read.

    Returns: features [N, D] float32, labels [N], class_names [C], class_splits [C].
    """
    assert isinstance(source, ListsExamples)
    embedded = network.to(device, training=False)
    at = {name: p.to(device) for name, p in params.items()}
    fixed = _draw_training(source, statistics_examples if network.mixes_examples else 0, seed)
    classes = [(split, name) for split in SPLITS for name in source.split_class_names(split)]
    embedded = embedded.with_statistics_of_first(len(fixed))
    counts: list[int] = []
    rows = []
    for examples in _batches(_all_examples(source, counts), batch_size):
        stored = torch.from_numpy(np.concatenate([*fixed, examples]))
        with torch.no_grad():
            x = as_input(source.preprocess(stored.to(device)))
            out = embedded.apply(at, x)[len(fixed) :]
        rows.append(out.flatten(1).float().cpu().numpy())
        on_progress(len(counts) / len(classes))
    return {
        "features": np.concatenate(rows),
        "labels": np.repeat(np.arange(len(classes)), counts),
        "class_names": np.array([name for _, name in classes]),
        "class_splits": np.array([split for split, _ in classes]),
    }


def _draw_training(source: ListsExamples, num_examples: int, seed: int) -> list[_Array]:
    """So many training examples, [1, *stored_shape] each: a class at random, one of its own."""
    rng = np.random.default_rng(seed)
    drawn = []
    for place in rng.integers(len(source.split_class_names("train")), size=num_examples):
        examples = source.class_examples("train", int(place))
        row = rng.integers(len(examples))
        drawn.append(examples[row : row + 1])
    return drawn


def _all_examples(source: ListsExamples, counts: list[int]) -> Iterator[_Array]:
    """The examples of each class; their numbers are appended to `counts`."""
    for split in SPLITS:
        for place in range(len(source.split_class_names(split))):
            examples = source.class_examples(split, place)
            counts.append(len(examples))
            yield examples


def _batches(blocks: Iterator[_Array], size: int) -> Iterator[_Array]:
    """The rows of all blocks, `size` at a time."""
    waiting: list[_Array] = []
    for block in blocks:
        waiting.append(block)
        while sum(map(len, waiting)) >= size:
            rows = np.concatenate(waiting)
            yield rows[:size]
            waiting = [rows[size:]]
    if any(map(len, waiting)):
        yield np.concatenate(waiting)
