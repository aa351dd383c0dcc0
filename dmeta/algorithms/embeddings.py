"""What methods that compare embeddings share.

Letters: N examples, S support examples, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmeta.bilevel.types import Params
from dmeta.models.network import Network

EMPTY = -1e9
"""Instead of the logarithm of 0: its exponential is 0, and the sum with any logit finite."""

_SMALLEST = 1e-6  # squared length below which rows stay short: none is divided by 0


def embed_examples(network: Network, params: Params, x: Tensor) -> Tensor:
    """[N, *input_shape] -> [N, D], whatever the shape of the network's output.

    Args:
        network: the embedding.
        params: its parameters; may have others, too.
        x: the examples.
    """
    return network.apply({name: params[name] for name in network.names}, x).flatten(1)


def some_weight(weights: Params) -> Tensor:
    """One of a network's weights, whose type others are to have; [] float32 if it has none."""
    return next(iter(weights.values()), torch.zeros(()))


def feature_shape(network: Network, input_shape: tuple[int, ...]) -> torch.Size:
    """Shape of the output for one example, of a network whose examples have this shape."""
    weights = network.init_params()
    like = some_weight(weights)
    if any(isinstance(layer, nn.Embedding | nn.EmbeddingBag) for layer in network.module.modules()):
        like = torch.zeros((), dtype=torch.int64)
    with torch.no_grad():
        return network.apply(weights, like.new_zeros(2, *input_shape)).shape[1:]


def num_features(network: Network, input_shape: tuple[int, ...]) -> int:
    """D, of a network whose examples have this shape."""
    return feature_shape(network, input_shape).numel()


def one_hot(labels: Tensor, ways: int, like: Tensor) -> Tensor:
    """[S] labels in 0..W-1 -> [S, W] of 0 and 1, of the type of `like`."""
    # Not F.one_hot, which looks at the labels' values under vmap over vjp.
    classes = torch.arange(ways, device=labels.device)
    return (labels[:, None] == classes).to(like.dtype)


def class_means(embedded: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Mean of the rows of each class: [S, D] and [S] in 0..W-1 to [W, D]; 0 for an empty class."""
    members = one_hot(labels, ways, embedded)
    return (members.T @ embedded) / members.sum(0).clamp(min=1)[:, None]


def class_log_sums(values: Tensor, members: Tensor) -> Tensor:
    """Log of the sum of exp(value) over each class: [N, S] and [S, W] to [N, W].

    About `EMPTY` for an empty class.
    """
    return (values[:, :, None] + EMPTY * (1 - members)).logsumexp(1)


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """|row - other|^2: [N, D] and [W, D] to [N, W]."""
    return (rows[:, None] - others).square().sum(-1)


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine of the angle between each two: [N, D] and [W, D] to [N, W].

    Of a row shorter than 1e-3 the cosine is smaller, down to 0 for a row of zeros.
    """
    return unit_rows(rows) @ unit_rows(others).T


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length 1: [N, D]. A row shorter than 1e-3 is shorter, down to 0 for one of zeros."""
    return rows * torch.rsqrt(rows.square().sum(1, keepdim=True).clamp(min=_SMALLEST))
