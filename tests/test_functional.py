"""`dmeta.meta_gradient`: the numbers of a run and of plain autograd, from tensors alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmeta
from dmeta.bilevel.estimators import first_order
from dmeta.bilevel.types import Examples, Task
from dmeta.models.network import Network
from dmeta.runtime.messages import Block
from dmeta.training.setup import Run, prepare
from tests.bilevel.problems import draw_tasks, relative_error
from tests.conftest import tiny_config
from tests.grids import covering

STEP, NUM_TASKS = 3, 4
BLOCK = Block("train", STEP, 0, 0, NUM_TASKS)
GLYPHS = {"task": "glyphs", "task__num_classes": 30, "task__drawings": 6, "task__queries": 2}
SMALL = {
    "sinusoid": {"task": "sinusoid", "model__hidden": 8},
    "glyphs": {**GLYPHS, "model": "conv4_strided", "model__filters": 4},
}


def tuple_of(tasks: Task) -> tuple[Tensor, ...]:
    return (*tasks.support, *tasks.query)


def mlp(outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def run_of(run_dir: Path, task: str, algorithm: str, **changes: Any) -> Run:
    return prepare(tiny_config(run_dir, **SMALL[task], algorithm=algorithm, **changes))


METHODS = {
    "sinusoid": ("maml", "reptile", "imaml"),
    "glyphs": ("maml", "reptile", "imaml", "leo", "maml_pp", "protonet"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "algorithm", "plan"),
    covering((t, a, plan) for t in METHODS for a in METHODS[t] for plan in ("vmap", "loop")),
)
def test_it_has_the_bits_of_a_runs_block(
    tmp_path: Path, task: str, algorithm: str, plan: Any
) -> None:
    run = run_of(tmp_path, task, algorithm, compute__plan=plan)
    work, vector = run.work.build("cpu"), run.outer.initial
    expected, (inputs,) = work.gradient(vector, BLOCK), work.block_inputs(vector, BLOCK)
    gradients, report = dmeta.meta_gradient(
        run.algorithm,
        inputs.meta_params,
        tuple_of(inputs.tasks),
        gradient=dmeta.ALGORITHMS[algorithm].gradient,
        plan=plan,
        reduction="sum",
        step=STEP,
        seed=run.config.seed,
    )
    assert np.array_equal(run.work.layout.flatten(gradients).numpy(), expected.gradient)
    sums = {"loss": report.losses, **report.metrics}
    assert {n: float(v.double().sum()) for n, v in sums.items()} == expected.report.sums


@pytest.mark.parametrize("algorithm", ["maml", "reptile"])
def test_a_registered_name_is_the_runs_method(tmp_path: Path, algorithm: str) -> None:
    """Its estimator included."""
    run = run_of(tmp_path, "sinusoid", algorithm)
    work, vector = run.work.build("cpu"), run.outer.initial
    (inputs,) = work.block_inputs(vector, BLOCK)
    gradients, _ = dmeta.meta_gradient(
        algorithm,
        inputs.meta_params,
        inputs.tasks,
        network=run.algorithm.network.module,
        reduction="sum",
        step=STEP,
    )
    got = run.work.layout.flatten(gradients).numpy()
    assert np.array_equal(got, work.gradient(vector, BLOCK).gradient)


def by_autograd(
    module: nn.Module, tasks: Task, lr: float, steps: int, *, second_order: bool = True
) -> dict[str, Tensor]:
    """MAML's mean meta-gradient, written as its paper does."""
    theta = {n: p.detach().requires_grad_() for n, p in module.named_parameters()}

    def loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(module, dict(params), (x,))
        return F.mse_loss(out, y) if y.is_floating_point() else F.cross_entropy(out, y)

    total = torch.zeros((), dtype=torch.float64)
    for support_x, support_y, query_x, query_y in zip(*tuple_of(tasks), strict=True):
        weights: dict[str, Tensor] = dict(theta)
        for _ in range(steps):
            inner = loss(weights, support_x, support_y)
            grads = torch.autograd.grad(inner, list(weights.values()), create_graph=second_order)
            weights = {n: w - lr * g for (n, w), g in zip(weights.items(), grads, strict=True)}
        total = total + loss(weights, query_x, query_y)
    grads = torch.autograd.grad(total / len(tasks.support.x), list(theta.values()))
    return dict(zip(theta, grads, strict=True))


@pytest.mark.parametrize("plan", ["vmap", "loop"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_it_is_the_gradient_of_plain_autograd(kind: Any, plan: Any) -> None:
    module, tasks = mlp(), draw_tasks(kind, (2,), seed=1, T=3)
    params = dict(module.named_parameters())
    options: dict[str, Any] = {"inner_lr": 0.3, "inner_steps": 3, "network": module, "plan": plan}
    for name, second_order in (("maml", True), ("fomaml", False)):
        got, report = dmeta.meta_gradient(name, params, tuple_of(tasks), **options)
        expected = by_autograd(module, tasks, 0.3, 3, second_order=second_order)
        assert got.keys() == expected.keys()
        for key, gradient in expected.items():
            torch.testing.assert_close(got[key], gradient, rtol=1e-10, atol=1e-12)
        assert report.losses.shape == (3,)
    assert all(p.grad is None for p in params.values())


def test_tasks_may_come_one_by_one_in_any_size_and_as_arrays() -> None:
    module = mlp()
    maml = dmeta.make_algorithm("maml", module, inner_lr=0.3, inner_steps=2)
    params = maml.init_meta_params()
    one, two = draw_tasks("classification", (2,), 1), draw_tasks("classification", (2,), 2, S=9)
    rows = [[part[0] for part in tuple_of(each)] for each in (one, two)]
    alone = [dmeta.meta_gradient(maml, params, [row]) for row in rows]
    mixed, report = dmeta.meta_gradient(maml, params, rows)
    for name in params:
        mean = (alone[0][0][name] + alone[1][0][name]) / 2
        torch.testing.assert_close(mixed[name], mean, rtol=1e-12, atol=1e-14)
    assert report.losses.tolist() == [float(each[1].loss) for each in alone]
    assert [p.shape for p in report.predictions] == [(5, 3), (5, 3)]

    stacked, _ = dmeta.meta_gradient(maml, params, tuple_of(one))
    as_rows = [tuple(part[t] for part in tuple_of(one)) for t in range(2)]
    as_tasks = [Task(Examples(*row[:2]), Examples(*row[2:])) for row in as_rows]
    as_arrays = tuple(part.numpy() for part in tuple_of(one))
    for tasks in (one, as_rows, as_tasks, as_arrays):
        again, _ = dmeta.meta_gradient(maml, params, tasks)
        assert all(torch.equal(again[name], stacked[name]) for name in params)


def test_the_sum_is_as_many_means_as_there_are_tasks() -> None:
    maml = dmeta.make_algorithm("maml", mlp())
    tasks, params = draw_tasks("regression", (2,), 1, T=3), maml.init_meta_params()
    mean, _ = dmeta.meta_gradient(maml, params, tasks)
    total, report = dmeta.meta_gradient(maml, params, tasks, reduction="sum")
    for name, gradient in mean.items():
        torch.testing.assert_close(total[name], 3 * gradient, rtol=1e-12, atol=0)
    assert "mse" in report.metrics
    assert float(report.loss) == pytest.approx(float(report.metrics["mse"].mean()))
    assert repr(report).startswith("MetaReport(3 tasks, loss=")


def test_an_estimator_is_a_name_or_an_object() -> None:
    maml = dmeta.make_algorithm("maml", mlp(), inner_lr=0.3, inner_steps=3)
    tasks, params = draw_tasks("regression", (2,), 1), maml.init_meta_params()

    def gradient(**how: Any) -> Tensor:
        return dmeta.meta_gradient(maml, params, tasks, **how)[0]["0.weight"]

    assert torch.equal(gradient(), gradient(gradient="exact"))
    assert torch.equal(gradient(gradient=first_order), gradient(gradient="first_order"))
    assert relative_error(gradient(gradient="first_order"), gradient()) > 1e-3
    last = dmeta.GRADIENTS["truncated"].make(last=1)
    assert relative_error(gradient(gradient=last), gradient()) > 1e-3


def test_an_own_loss_and_an_own_factory_are_used() -> None:
    def double(prediction: Tensor, target: Tensor) -> Tensor:
        return 2 * F.mse_loss(prediction, target)

    tasks, module = draw_tasks("regression", (2,), 1), mlp()
    params = dict(module.named_parameters())
    own = dmeta.ALGORITHMS["joint"].make
    one, _ = dmeta.meta_gradient("joint", params, tasks, network=module, loss="mse")
    two, _ = dmeta.meta_gradient(own, params, tasks, network=module, loss=double)
    for name in params:
        torch.testing.assert_close(two[name], 2 * one[name])


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("mamml", {}, "algorithm must be one of .* got 'mamml' .did you mean 'maml'"),
    ("maml", {"inner_lrr": 1.0}, "unknown key 'algorithm.inner_lrr' .did you mean"),
    ("maml", {"inner_lr": -1.0}, "algorithm.inner_lr must be > 0, got -1.0"),
    ("maml", {"gradient": "exactly"}, "gradient must be one of .* got 'exactly'"),
    ("maml", {"loss": "mean"}, "loss must be auto or one of .* got 'mean'"),
    ("maml", {"reduction": "none"}, "reduction must be mean or sum, got 'none'"),
    ("maml", {"network": None}, "network must be given with algorithm='maml', got none"),
    ("protonet", {}, "targets for ProtoNet must be of classification, got regression"),
    ("cavia", {}, "must have a model with a parameter called 'context'"),
]


@pytest.mark.parametrize(("algorithm", "changes", "message"), IMPOSSIBLE)
def test_what_cannot_be_is_refused(algorithm: str, changes: dict[str, Any], message: str) -> None:
    module, tasks = mlp(), draw_tasks("regression", (2,), 1)
    options = {"network": module, **changes}
    with pytest.raises(ValueError, match=message):
        dmeta.meta_gradient(algorithm, dict(module.named_parameters()), tasks, **options)


def test_options_are_not_for_an_algorithm_that_is_ready() -> None:
    maml = dmeta.make_algorithm("maml", mlp())
    tasks = draw_tasks("regression", (2,), 1)
    with pytest.raises(ValueError, match="must not be given with an algorithm that is ready"):
        dmeta.meta_gradient(maml, maml.init_meta_params(), tasks, inner_lr=0.1)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((0, slice(0, 1)), r"T, S and Q at least 1, got support_x \[1, 6, 2\], support_y \[2, 6"),
        ((1, (slice(None), slice(0, 3))), "with targets for each of them"),
        ((2, slice(0, 0)), "T, S and Q at least 1"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(part: Any, message: str) -> None:
    maml = dmeta.make_algorithm("maml", mlp())
    tasks = list(tuple_of(draw_tasks("regression", (2,), 1)))
    tasks[part[0]] = tasks[part[0]][part[1]]
    with pytest.raises(ValueError, match=message):
        dmeta.meta_gradient(maml, maml.init_meta_params(), tuple(tasks))
    with pytest.raises(ValueError, match="at least one, got none"):
        dmeta.meta_gradient(maml, maml.init_meta_params(), [])


def test_targets_that_torch_would_broadcast_are_refused() -> None:
    maml = dmeta.make_algorithm("maml", mlp(outputs=1))
    support_x, support_y, query_x, query_y = tuple_of(draw_tasks("regression", (2,), 1))
    tasks = (support_x, support_y[..., 0], query_x, query_y[..., 0])
    with pytest.raises(ValueError, match=r"shape of the predictions, \[6, 1\], got \[6\]"):
        dmeta.meta_gradient(maml, maml.init_meta_params(), tasks)


def test_leo_must_see_an_input() -> None:
    with pytest.raises(ValueError, match="algorithm=leo must know the shape of its inputs"):
        dmeta.make_algorithm("leo", nn.Linear(2, 4))
    made = dmeta.make_algorithm("leo", nn.Linear(2, 4), example=torch.randn(2, 2), num_latents=3)
    assert made.init_meta_params()["leo/encoder"].shape == (4, 3)
    assert isinstance(made.network, Network)


@pytest.mark.slow
def test_names_are_found_when_they_are_asked_for_and_importing_stays_light() -> None:
    code = (
        "import sys, dmeta\n"
        "assert not {'torch', 'ray', 'hydra', 'numpy'} & set(sys.modules), 'import dmeta'\n"
        "assert dmeta.ALGORITHMS.get('nothing') is None and 'maml' in dmeta.ALGORITHMS\n"
        "assert {n for n in dmeta.__all__ if getattr(dmeta, n) is None} == set()\n"
        "assert len(dmeta.GRADIENTS) and len(dmeta.MODELS) and len(dmeta.TASKS)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
    lonely = (
        "import sys, dmeta; dmeta.MetaLearner, dmeta.meta_gradient\n"
        "assert not {'ray', 'hydra', 'omegaconf', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", lonely], check=True, timeout=120)
