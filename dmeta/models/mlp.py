"""Multi-layer perceptron."""

from __future__ import annotations

import math

from torch import nn

from dmeta.models.context import ContextInput
from dmeta.models.sizes import check_depth, check_sizes


def mlp(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    hidden: int = 40,
    num_layers: int = 2,
    context: int = 0,
) -> nn.Module:
    """ReLU layers of equal width; 1-40-40-1 is the sinusoid network of Finn et al. 2017, sec. 5.1.

    Args:
        input_shape: of one example; flattened.
        num_outputs: width of the last layer; None: no such layer, an embedding in `hidden`
            dimensions.
        hidden: width of each hidden layer.
        num_layers: number of hidden layers (0: a linear model).
        context: numbers that are joined to the input and that a method such as CAVIA moves for each
            task (see `dmeta.models.context`).

    Raises:
        ValueError: a size is too small.
    """
    check_sizes(hidden=(hidden, 1), num_layers=(num_layers, 0), context=(context, 0))
    check_depth(num_layers=num_layers)
    layers: list[nn.Module] = [nn.Flatten()]
    if context:
        layers.append(ContextInput(context))
    width = math.prod(input_shape) + context
    for _ in range(num_layers):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    if num_outputs is not None:
        layers.append(nn.Linear(width, num_outputs))
    return nn.Sequential(*layers)
