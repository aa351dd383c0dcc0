"""What a GPU is told. Without one: that torch has been told it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dmeta.training.gpu import set_up_gpu


@pytest.fixture(autouse=True)
def _settings_are_restored() -> Iterator[None]:
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, convolutions.fp32_precision
    yield
    matmul.fp32_precision, convolutions.fp32_precision = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("precision", "products"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")]
)
def test_float32_is_rounded_only_if_asked_for_and_sums_have_an_order(
    precision: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    set_up_gpu(precision)
    assert torch.backends.cuda.matmul.fp32_precision == products
    assert torch.backends.cudnn.conv.fp32_precision == products
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
