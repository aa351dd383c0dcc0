"""A correction of the seasonal naive forecast."""

from __future__ import annotations

import pytest
import torch

from dmeta.models.seasonal_mlp import seasonal_mlp


def silent(horizon: int, season: int) -> torch.nn.Module:
    module = seasonal_mlp((6,), horizon, season=season, hidden=8)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module


def test_without_a_correction_it_is_the_seasonal_naive_forecast() -> None:
    x = torch.arange(12.0).reshape(2, 6)
    assert silent(4, 3)(x).tolist() == [[3, 4, 5, 3], [9, 10, 11, 9]]
    assert silent(2, 1)(x).tolist() == [[5, 5], [11, 11]]
    assert silent(2, 4)(x).tolist() == [[2, 3], [8, 9]]


def test_level_and_size_of_a_series_change_its_forecast_likewise() -> None:
    torch.manual_seed(0)
    module, x = seasonal_mlp((6,), 4, season=3), torch.randn(5, 6)
    assert torch.allclose(module(100 + 7 * x), 100 + 7 * module(x), atol=1e-3)
    constant = torch.full((1, 6), 3.0)
    assert module(constant).isfinite().all()
    assert torch.allclose(module(constant), constant[:, :4], atol=1e-4)
    assert seasonal_mlp((6,), None, season=3, hidden=9)(x).shape == (5, 9)


def test_a_history_shorter_than_a_season_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.season must be <= .*got 7; .*raise task.history"):
        seasonal_mlp((6,), 4, season=7)
    with pytest.raises(ValueError, match="season"):
        seasonal_mlp((6,), 4, season=0)
