"""The guide's examples run as they stand, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "python_api.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, example in enumerate(EXAMPLES):
            exec(compile(example, f"python_api.md, example {number}", "exec"), names)
    assert names["prediction"].shape == (10, 1)  # type: ignore[attr-defined]
    assert names["logits"].shape == (5, 5)  # type: ignore[attr-defined]
    assert names["report"].losses.shape == (4,)  # type: ignore[attr-defined]
    assert len(EXAMPLES) == 7
