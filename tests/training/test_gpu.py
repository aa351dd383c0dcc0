"""What a GPU is told. Without one: that torch has been told it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from dmeta.training.devices.gpu import set_up_gpu


@pytest.fixture(autouse=True)
def _settings_are_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "to be removed again")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    filled = torch.utils.deterministic.fill_uninitialized_memory
    kernels = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark = True  # somebody has wished so
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = kernels
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_float32_is_rounded_only_if_asked_for_and_sums_have_an_order(precision: str) -> None:
    set_up_gpu(precision)
    rounded = precision == "tf32"
    assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    assert torch.backends.cuda.matmul.allow_tf32 is rounded
    assert torch.backends.cudnn.allow_tf32 is rounded
    kinds = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    assert all((kind.fp32_precision == "tf32") is rounded for kind in kinds)
    with torch.backends.cudnn.flags(enabled=False):  # as some need for double backward
        pass
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.deterministic
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
