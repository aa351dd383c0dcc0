"""Each import runs in a process of its own: it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

STUB_FAILING = """
import torch
{declare}
@torch.library.register_fake("torchvision::nms")
def _nms(dets, scores, iou_threshold): ...
@torch.library.register_fake("torchvision::qnms")
def _qnms(dets, scores, iou_threshold): ...
"""


def run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    return subprocess.run(
        [sys.executable, "-c", start + code], check=False, capture_output=True, text=True
    )


IMPORT = """
from dmeta import torchvision_compat as compat
datasets = compat.import_datasets()
assert datasets is compat.import_datasets()
"""


def stub(tmp_path: Path, body: str) -> Path:
    package = tmp_path / "torchvision"
    (package / "datasets").mkdir(parents=True)
    (package / "__init__.py").write_text(body)
    (package / "datasets" / "__init__.py").write_text("Omniglot = 'stub'")
    return tmp_path


@pytest.mark.slow
def test_the_installed_torchvision_gives_its_datasets() -> None:
    result = run(IMPORT + "datasets.Omniglot")
    if "No module named 'torchvision'" in result.stderr:
        pytest.skip("torchvision is not installed")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_missing_operators_are_declared(tmp_path: Path) -> None:
    path = stub(tmp_path, STUB_FAILING.format(declare=""))
    result = run(IMPORT + "assert compat._declared and datasets.Omniglot == 'stub'", path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_present_operators_are_left_alone(tmp_path: Path) -> None:
    declare = (
        "lib = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    lib.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
    )
    path = stub(tmp_path, STUB_FAILING.format(declare=declare))
    result = run(IMPORT + "assert not compat._declared", path)
    assert result.returncode == 0, result.stderr


def test_any_other_failure_is_passed_on(tmp_path: Path) -> None:
    result = run(IMPORT, stub(tmp_path, "raise RuntimeError('something else')"))
    assert "RuntimeError: something else" in result.stderr
