"""Multi-layer perceptron for forecasts: what it says is added to the values of the last season."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmeta.models.mlp import mlp
from dmeta.models.sizes import check_sizes

_LEAST_VARIANCE = 1e-12


class SeasonalMLP(nn.Module):
    """Of a history [N, H]: its last season, repeated, and a correction in its own units.

    The history is brought to mean 0 and standard deviation 1 for `body`, and what that says is
    multiplied by the standard deviation (as RevIN, Kim et al. 2022, without its learned scale). So
    series of any level and size are alike, and an output of 0 is the seasonal naive forecast.

    Attributes:
        body: [N, H] -> [N, F], or an embedding.
        season: values of a season.
        horizon: F; None: an embedding, to which nothing is added.
    """

    def __init__(self, body: nn.Module, season: int, horizon: int | None) -> None:
        super().__init__()
        self.body, self.season, self.horizon = body, season, horizon

    def forward(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, F], in the units of x."""
        centred = x - x.mean(-1, keepdim=True)
        spread = centred.square().mean(-1, keepdim=True).clamp_min(_LEAST_VARIANCE).sqrt()
        out: Tensor = self.body(centred / spread)
        if self.horizon is None:
            return out
        repeats = math.ceil(self.horizon / self.season)
        naive = torch.cat([x[..., -self.season :]] * repeats, -1)[..., : self.horizon]
        return naive + spread * out


def seasonal_mlp(
    input_shape: tuple[int, ...],
    num_outputs: int | None,
    season: int = 1,
    hidden: int = 128,
    num_layers: int = 2,
) -> nn.Module:
    """A correction of the seasonal naive forecast.

    Args:
        input_shape: of one history, (H,).
        num_outputs: values to forecast; None: an embedding in `hidden` dimensions.
        season: values of a season, such as 24 of hours; 1: the last value is repeated.
        hidden: width of each hidden layer.
        num_layers: number of hidden layers.

    Raises:
        ValueError: a size is too small, or the history shorter than a season.
    """
    check_sizes(season=(season, 1))
    if len(input_shape) != 1 or input_shape[0] < season:
        raise ValueError(
            f"model.season must be <= the values of a history, which has shape "
            f"{list(input_shape)}, got {season}; lower it, or raise task.history"
        )
    body = mlp(input_shape, num_outputs, hidden=hidden, num_layers=num_layers)
    return SeasonalMLP(body, season, num_outputs)
