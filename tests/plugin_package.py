"""A package of somebody else that adds a method, a model, tasks and a metric by entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.algorithms import ALGORITHMS
from dmeta.metrics import METRICS
from dmeta.models import MODELS
from dmeta.tasks import TASKS

_METHOD = '''
"""A method with an option of its own beside the inner loop's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.registry import Entry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Damped:
    """MAML whose predictions are multiplied by a factor."""

    network: object
    loss: object
    inner: InnerLoop = field(default_factory=lambda: InnerLoop(inner_lr=0.02))
    damping: float = 0.5
    flavour: Literal["plain", "bitter"] = "plain"
    observed: Tensor | None = None

    def _maml(self):
        return Maml(self.network, self.loss, self.inner)

    def init_meta_params(self):
        return self._maml().init_meta_params()

    def adapt(self, meta_params, support, solve, stage):
        return self._maml().adapt(meta_params, support, solve, stage)

    def predict(self, adapted, x):
        return self.damping * self._maml().predict(adapted, x)


DAMPED = Entry(Damped, "damped MAML", "a stranger")
'''

_MODEL = '''
"""A network with an option."""

from torch import nn

from dmeta.registry import Entry


def narrow(input_shape, num_outputs, *, units: int = 6, activation=nn.Tanh):
    """One hidden layer."""
    size = 1
    for side in input_shape:
        size *= side
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, units), activation(), nn.Linear(units, num_outputs)
    )


NARROW = Entry(narrow, "one hidden layer", "a stranger")
'''

_TASKS = '''
"""Tasks: straight lines."""

from dataclasses import dataclass

import numpy as np

from dmeta.registry import Entry
from dmeta.tasks.source import DrawnTask


@dataclass(frozen=True)
class Slopes:
    """y = slope * x."""

    steepest: float = 2.0
    kind = "regression"
    input_shape = (1,)

    def num_outputs(self, ways):
        return 1

    def check(self, split, size):
        if size.ways != 1:
            raise ValueError(f"task.ways must be 1 for lines, got {size.ways}; remove it")

    def draw(self, split, size, rng):
        slope = rng.uniform(-self.steepest, self.steepest)
        x = rng.uniform(-1, 1, (size.shots + size.queries, 1)).astype(np.float32)
        y = (slope * x).astype(np.float32)
        return DrawnTask(x[: size.shots], y[: size.shots], x[size.shots :], y[size.shots :])

    def preprocess(self, x):
        return x


def slopes(steepest: float = 2.0) -> Slopes:
    return Slopes(steepest)


SLOPES = Entry(slopes, "lines", "a stranger", {"model": "narrow", "task.shots": 4})
'''

_METRIC = '''
"""A metric: the share of queries that are wrong."""

from dmeta import Metric
from dmeta.registry import Entry


def error_rate(logits, labels, ways):
    """Of one task."""
    return (logits.argmax(-1) != labels).float().mean()


ERROR_RATE = Entry(
    lambda: Metric("error_rate", error_rate, higher_is_better=False, unit="fraction"),
    "share of wrong answers",
    "a stranger",
)
'''

_ENTRY_POINTS = """\
[dmeta.algorithms]
damped-maml = stranger.method:DAMPED

[dmeta.models]
narrow = stranger.model:NARROW

[dmeta.tasks]
slopes = stranger.tasks:SLOPES

[dmeta.metrics]
error_rate = stranger.metric:ERROR_RATE
also_wrong = stranger.metric:ERROR_RATE
"""


def write_package(folder: Path) -> None:
    """Put the package and its metadata into a folder, as an installer would."""
    files = {
        "stranger/__init__.py": "",
        "stranger/method.py": _METHOD,
        "stranger/model.py": _MODEL,
        "stranger/tasks.py": _TASKS,
        "stranger/metric.py": _METRIC,
        "stranger-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n",
        "stranger-1.0.dist-info/entry_points.txt": _ENTRY_POINTS,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have this process find the package that is in a folder, until the patch is undone."""
    patch.syspath_prepend(str(folder))
    for registry in (ALGORITHMS, METRICS, MODELS, TASKS):
        patch.setattr(registry, "_loaded", {})
