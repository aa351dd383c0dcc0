"""dmeta: distributed meta-training of few-shot learners.

result = dmeta.train({"task": "sinusoid", "steps": 1000})
learner = dmeta.load(result.run_dir)
prediction = learner.adapt(support_x, support_y).predict(query_x)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "ALGORITHMS",
    "GRADIENTS",
    "METRICS",
    "MODELS",
    "TASKS",
    "MetaLearner",
    "Metric",
    "embed",
    "evaluate",
    "from_arrays",
    "load",
    "make_algorithm",
    "meta_gradient",
    "replay",
    "train",
    "tune",
]

if TYPE_CHECKING:
    from dmeta.algorithms import ALGORITHMS
    from dmeta.bilevel import ESTIMATORS as GRADIENTS
    from dmeta.cli.embed import embed
    from dmeta.cli.evaluate import evaluate
    from dmeta.cli.load import load
    from dmeta.cli.replay import replay
    from dmeta.cli.train import train
    from dmeta.cli.tune import tune
    from dmeta.functional import make_algorithm, meta_gradient
    from dmeta.meta_learner import MetaLearner
    from dmeta.metrics import METRICS
    from dmeta.metrics.metric import Metric
    from dmeta.models import MODELS
    from dmeta.tasks import TASKS
    from dmeta.tasks.in_memory import from_arrays

_HOMES = {
    "train": "cli.train",
    "evaluate": "cli.evaluate",
    "load": "cli.load",
    "embed": "cli.embed",
    "from_arrays": "tasks.in_memory",
    "replay": "cli.replay",
    "tune": "cli.tune",
    "meta_gradient": "functional",
    "make_algorithm": "functional",
    "MetaLearner": "meta_learner",
    "ALGORITHMS": "algorithms",
    "METRICS": "metrics",
    "Metric": "metrics.metric",
    "MODELS": "models",
    "TASKS": "tasks",
    "GRADIENTS": "bilevel",
}
_NAMES_THERE = {"GRADIENTS": "ESTIMATORS"}


def __getattr__(name: str) -> Any:
    # Lazily, so that a worker that imports one room does not import them all.
    if name == "search":
        return import_module("dmeta.search")
    if name not in _HOMES:
        raise AttributeError(f"module 'dmeta' has no attribute {name!r}")
    home = import_module(f"dmeta.{_HOMES[name]}")
    return getattr(home, _NAMES_THERE.get(name, name))
