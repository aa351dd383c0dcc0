"""dmeta: distributed meta-training of few-shot learners.

result = dmeta.train({"task": "sinusoid", "steps": 1000})
learner = dmeta.load(result.run_dir)
prediction = learner.adapt(support_x, support_y).predict(query_x)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["embed", "evaluate", "load", "replay", "train", "tune"]

if TYPE_CHECKING:
    from dmeta.cli.embed import embed
    from dmeta.cli.evaluate import evaluate, load
    from dmeta.cli.replay import replay
    from dmeta.cli.train import train
    from dmeta.cli.tune import tune

_HOMES = {
    "train": "train",
    "evaluate": "evaluate",
    "load": "evaluate",
    "embed": "embed",
    "replay": "replay",
    "tune": "tune",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that a worker that imports one room does not import them all.
    if name == "search":
        return import_module("dmeta.search")
    if name not in _HOMES:
        raise AttributeError(f"module 'dmeta' has no attribute {name!r}")
    return getattr(import_module(f"dmeta.cli.{_HOMES[name]}"), name)
