"""The guide's transform trains as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dmeta
from dmeta.algorithms.inner_loop import InnerLoop

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "inner_chain.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.S | re.M)
SETTINGS = {
    "task": "sinusoid", "model.hidden": 8, "runtime": "local", "steps": 2, "meta_batch_size": 2,
    "eval.num_tasks": 2, "eval.val_tasks": 2,
}  # fmt: skip


def test_the_example_trains(tmp_path: Path) -> None:
    (example,) = EXAMPLES
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(example, "inner_chain.md", "exec"), names)
    run = tmp_path / "run"
    dmeta.train({**SETTINGS, "run_dir": str(run)}, algorithm=names["shrinking_maml"])
    learned = dmeta.load(run, algorithm=names["shrinking_maml"]).meta_params
    factors = [p for n, p in learned.items() if n.startswith("inner_shrinking/")]
    assert len(factors) == len(learned) / 2
    assert any(p != 1 for p in factors)


def test_the_commands_chain_is_one() -> None:
    assert "[{name: clip, max_norm: 1}, momentum, rate]" in GUIDE.read_text(encoding="utf-8")
    chain = ({"name": "clip", "max_norm": 1}, "momentum", "rate")
    assert len(InnerLoop(inner_chain=chain).transforms) == 3
