"""Small few-shot problems in float64 that the tests of the mathematics share. Seeded, CPU.

Letters: T tasks, S support examples, Q query examples, W ways.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds, kinds, trains_on_batches
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.types import Adapted, Examples, Kind, Outcome, Params, Stage, Task
from dmeta.models import MODELS
from dmeta.models.network import Network
from dmeta.options import NamedOptions, checked_options
from tests.grids import covering

# Smallest sensible size of every registered model: options, input shape. A model that is not named
# here is made with its defaults on images of 32 pixels a side.
SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"hidden": 5, "num_layers": 2}, (2,)),
    "seasonal_mlp": ({"hidden": 5, "season": 2}, (6,)),
    "conv4": ({"filters": 2, "blocks": 2}, (1, 8, 8)),
    "conv4_strided": ({"filters": 2, "blocks": 2}, (1, 8, 8)),
    "resnet12": ({"widths": (2,)}, (1, 8, 8)),
    "resnet10": ({"width": 2}, (1, 8, 8)),
    "resnet18": ({"width": 2, "stem": "small"}, (1, 8, 8)),
    "wide_resnet": ({"depth": 10, "widen": 1}, (1, 6, 6)),
    "vit": ({"patch": 3, "width": 4, "depth": 1, "heads": 2, "hidden": 3}, (1, 6, 6)),
    "lstm": ({"hidden": 3, "bidirectional": True}, (4, 2)),
    "gru": ({"hidden": 3, "num_layers": 2, "pool": "mean"}, (4, 2)),
    "transformer": ({"width": 4, "depth": 1, "heads": 2, "hidden": 3}, (4, 2)),
    "torchvision": ({"arch": "resnet18"}, (3, 16, 16)),
}
TRAINING = Stage(training=True, ways=3)
EVALUATION = Stage(training=False, ways=3)
UNKNOWN: tuple[dict[str, Any], tuple[int, ...]] = ({}, (3, 32, 32))


@dataclass(frozen=True)
class Problem:
    """A learner, where it stands, and T tasks."""

    algorithm: Any
    params: Params
    tasks: Task


def network(
    model: str, num_outputs: int | None, seed: int = 0, **options: Any
) -> tuple[Network, tuple[int, ...]]:
    """A small float64 network of a registered model, and its input shape."""
    own, shape = SMALL.get(model, UNKNOWN)
    shape = options.pop("input_shape", shape)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = MODELS[model].make(input_shape=shape, num_outputs=num_outputs, **(own | options))
    return Network.of(module.double()), shape


def make_algorithm(
    name: str,
    made: Network,
    loss: Any,
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Any:
    """A registered algorithm with options as in a config."""
    make = ALGORITHMS[name].make
    checked = checked_options(make, NamedOptions(name, options), "algorithm")
    if "input_shape" in inspect.signature(make).parameters:
        checked["input_shape"] = input_shape
    if "num_base_classes" in inspect.signature(make).parameters:
        checked["num_base_classes"] = TRAINING.ways
    if "base_class_sizes" in inspect.signature(make).parameters:
        checked["base_class_sizes"] = (TRAINING.ways,)
    return make(network=made, loss=loss, **checked)


def has_option(algorithm: str, key: str) -> bool:
    """Whether a config may set ``algorithm.<key>`` for the algorithm."""
    try:
        checked_options(ALGORITHMS[algorithm].make, NamedOptions(algorithm, {key: 1}), "algorithm")
    except ValueError as error:
        return "unknown key" not in str(error)
    return True


def takes_inner_steps(algorithm: str) -> bool:
    """Whether training takes ``algorithm.inner_steps``: not on mini-batches."""
    on_batches = trains_on_batches(ALGORITHMS[algorithm].make)
    return has_option(algorithm, "inner_steps") and not on_batches


def first_task(at: Problem) -> Task:
    """Its first task, not stacked."""
    support, query = (Examples(part.x[0], part.y[0]) for part in at.tasks)
    return Task(support, query)


@functools.cache
def sensible(algorithm: str) -> tuple[str, ...]:
    """Estimators that the algorithm does not refuse, and by which it learns something."""
    at = problem("mlp", kinds(ALGORITHMS[algorithm].make)[0], algorithm)
    kept = []
    for gradient in ESTIMATORS:
        if (algorithm, gradient) == ("joint", "displacement"):  # no inner step: none at all
            continue
        try:
            ESTIMATORS[gradient].make()(at.algorithm, at.params, first_task(at), TRAINING)
        except ValueError:
            continue
        kept.append(gradient)
    return tuple(kept)


LEARNS = [(name, kind) for name in ALGORITHMS for kind in kinds(ALGORITHMS[name].make)]
"""Every registered algorithm with every kind of task that it can learn."""


def _distinct() -> list[str]:
    """Algorithms that are not another one with another gradient, as FOMAML is MAML."""
    seen: list[list[Any]] = []
    names = []
    for name in ALGORITHMS:
        learner = problem("mlp", algorithm=name).algorithm
        others = [f.name for f in dataclasses.fields(learner) if f.name not in ("network", "loss")]
        made = [type(learner), *(getattr(learner, field) for field in others)]
        if made not in seen:
            seen.append(made)
            names.append(name)
    return names


def draw_tasks(
    kind: Kind, shape: tuple[int, ...], seed: int, T: int = 2, S: int = 6, Q: int = 5, W: int = 3
) -> Task:
    """T random tasks: W balanced classes, or W values of a smooth function."""
    rng = torch.Generator().manual_seed(seed)
    parts = []
    for rows in (S, Q):
        x = torch.randn(T, rows, *shape, generator=rng, dtype=torch.float64)
        if kind == "classification":
            y = (torch.arange(rows) % W).expand(T, rows).clone()
        else:
            phase = math.pi * torch.rand(T, 1, W, generator=rng, dtype=torch.float64)
            y = torch.sin(x.flatten(2).sum(-1, keepdim=True) + phase)
        parts.append(Examples(x, y))
    return Task(*parts)


def problem(
    model: str,
    kind: Kind = "classification",
    algorithm: str = "maml",
    seed: int = 0,
    model_options: dict[str, Any] | None = None,
    **options: Any,
) -> Problem:
    """A registered algorithm on a small registered model, with T = 2 tasks."""
    outputs = None if embeds(ALGORITHMS[algorithm].make) else 3
    needed = {"context": 4} if algorithm == "cavia" else {}
    made, shape = network(model, outputs, seed, **needed, **(model_options or {}))
    loss = F.cross_entropy if kind == "classification" else F.mse_loss
    learner = make_algorithm(algorithm, made, loss, shape, **options)
    return Problem(learner, learner.init_meta_params(), draw_tasks(kind, shape, seed + 1))


def meta_loss_of(at: Problem, outcome: Adapted | Outcome, query: Examples) -> Tensor:
    """The query loss of an adapted state, or what an `Outcome` says that the meta-loss is."""
    if not isinstance(outcome, Outcome):
        return at.algorithm.loss(at.algorithm.predict(outcome, query.x), query.y)  # type: ignore[no-any-return]
    total = torch.zeros((), dtype=torch.float64)
    for weight, state in zip(outcome.weights, outcome.states, strict=True):
        total = total + weight * at.algorithm.loss(at.algorithm.predict(state, query.x), query.y)
    return total if outcome.penalty is None else total + outcome.penalty


def predicting(outcome: Adapted | Outcome) -> Adapted:
    """The state that predicts, of what `adapt` returned (in training, it may be an `Outcome`)."""
    return outcome.states[-1] if isinstance(outcome, Outcome) else outcome


DISTINCT = _distinct()
"""Registered algorithms that compute something else, given one gradient."""

ONCE = [
    (name, of[number % len(of)])
    for number, name in enumerate(ALGORITHMS)
    for of in [kinds(ALGORITHMS[name].make)]
]
"""Every registered algorithm with one kind of task, in turn."""

ON_MODELS = covering(
    (name, kind, model)
    for name, kind in LEARNS
    if name in DISTINCT
    for model in ("mlp", "conv4_strided")
)
"""Every algorithm of `DISTINCT` with every kind of task that it can learn, and on either model."""


def flat(params: Params) -> Tensor:
    """All values as one vector [P]."""
    return torch.cat([p.detach().reshape(-1) for p in params.values()])


def relative_error(got: Tensor, expected: Tensor) -> float:
    """||got - expected|| / ||expected||, 2-norms."""
    return float((got - expected).norm() / expected.norm())
