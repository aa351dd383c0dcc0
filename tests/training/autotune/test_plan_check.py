"""A plan that computes something else than the plain loop is found before a run begins."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmeta
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.plans import BlockGradient, PlanName
from dmeta.bilevel.types import Params, Stage, Task
from dmeta.runtime.messages import Block, Vector
from dmeta.training.autotune import planning
from dmeta.training.autotune.gradient_error import flat, in_float64
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.plan_check import INEXACT, WRONG, PlanTrial, loop_reference
from dmeta.training.autotune.planning import plan_line, planned
from dmeta.training.autotune.suspects import suspected_modules
from dmeta.training.setup import Run, prepare
from dmeta.training.work.worker import TaskWork
from tests.conftest import TINY, tiny_config


class WrongUnderVmap(nn.Module):
    """The hyperbolic tangent; under vmap its derivative is 2% too large."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        stack = torch._C._functorch.get_interpreter_stack() or ()
        if any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack):
            y = 1.02 * y - 0.02 * y.detach()
        return y


class NativeLayerNorm(nn.Module):
    """Torch's own function below `F.layer_norm`, on [N, 2, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(-1, 2, 4)
        out: Tensor = torch.native_layer_norm(h, (4,), self.scale, None, 1e-5)[0]
        return out.flatten(1)


def model(inner: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), inner or nn.Tanh(), nn.Tanh(), nn.Linear(8, 1))


def run_of(module: nn.Module | None = None, loss: Any = None, **changes: Any) -> Run:
    return prepare(tiny_config("run", **changes), model=module or model(), loss=loss)


def trial_of(run: Run, memory_limit: float = 1e12) -> PlanTrial:
    return PlanTrial(run.work, run.outer.initial, first_block_inputs(run), memory_limit)


def objection_to(run: Run, plan: PlanName = "vmap", least: float = WRONG) -> str | None:
    return trial_of(run).objection(plan, 2, least)


@pytest.fixture
def vmap_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"vmap": 1.0, "loop": 2.0, "loop_channels_last": 3.0, "loop_mixed": 3.0}
    monkeypatch.setattr(planning, "eager_seconds", lambda run, plan, *rest: seconds[plan])


@pytest.mark.parametrize(
    ("inner", "suspect"),
    [(WrongUnderVmap, "1 (WrongUnderVmap)"), (NativeLayerNorm, "1 (NativeLayerNorm)")],
)
def test_a_plan_that_is_wrong_is_refused_with_the_module_suspected(
    inner: type[nn.Module], suspect: str
) -> None:
    run = run_of(model(inner()), algorithm__inner_lr=0.3)
    with pytest.raises(
        ValueError, match=r"compute\.plan=vmap must .*; choose compute\.plan=loop"
    ) as refused:
        planned(run)
    assert f"suspected: {suspect};" in str(refused.value)
    assert "a meta-gradient that is off by " in str(refused.value)


@pytest.mark.slow
def test_another_plan_is_taken_and_the_run_says_why(vmap_is_fastest: None, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    asked = TINY | {"compute.plan": "auto", "run_dir": str(run_dir)}
    result = dmeta.train(asked, model=model(WrongUnderVmap()))
    plan = result.summary["plan"]
    assert plan["plan"] == "loop"
    assert "suspected: 1 (WrongUnderVmap)" in plan["left_out"]["vmap"]
    errors = plan["comparison"]["errors"]
    assert errors["vmap"] > WRONG
    assert errors["loop"] < INEXACT
    begun = json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])
    assert begun["plan"] == plan


def test_a_plan_that_is_right_is_taken_and_its_error_is_said(vmap_is_fastest: None) -> None:
    for plan in ("auto", "vmap"):
        run = planned(run_of(compute__plan=plan))
        assert run.plan is not None
        assert run.plan.comparison is not None
        assert run.plan.comparison.num_tasks == 2
        errors = run.plan.comparison.errors
        assert errors.keys() == {"loop", "vmap"}
        assert 0 < errors["loop"] < 1e-6
        assert 0 < errors["vmap"] < 1e-6
        line = plan_line(run)
        assert line is not None
        assert f"of 2 tasks against loop in float64: loop {errors['loop']:.1e}, vmap" in line


def test_the_loop_is_not_compared_with_itself() -> None:
    run = planned(run_of(model(WrongUnderVmap()), compute__plan="loop"))
    assert run.plan is not None
    assert run.plan.comparison is None


def test_a_program_that_was_compiled_before_is_the_one_that_is_tried() -> None:
    run = run_of()
    trial = trial_of(run)
    loop = block_program("loop", run.work.estimator, first_block_inputs(run).algorithm)
    stages = []

    def compiled(params: Params, tasks: Task, stage: Stage, seeds: Tensor | None) -> BlockGradient:
        stages.append(stage)
        right = loop(params, tasks, stage, seeds)
        wrong = {name: (1 - 3e-3) * g for name, g in right.gradients.items()}
        return right._replace(gradients=wrong)

    objection = trial.objection("compiled", 2, WRONG, compiled)
    assert objection is not None
    assert "off by 3.0e-03" in objection
    assert "most of it in " in objection
    assert stages == [first_block_inputs(run).stage]  # another would need another program


class Shift(nn.Module):
    """Adds 30: means are large beside deviations."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 30


@pytest.mark.slow
def test_a_plan_that_is_much_less_exact_than_the_loop_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Channels last, torch's batch-norm adds up without care for rounding (torch 2.13)."""
    seconds = {"vmap": 3.0, "loop": 3.0, "loop_channels_last": 1.0, "loop_mixed": 2.0}
    monkeypatch.setattr(planning, "eager_seconds", lambda run, plan, *rest: seconds[plan])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        images = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.ReLU(), Shift(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
            *(nn.Tanh(), nn.AvgPool2d(12), nn.Flatten(), nn.Linear(32, 5)),
        )
    settings = {"task": "glyphs", "gradient": "first_order", "compute__plan": "measure"}
    run = planned(run_of(images, **settings))
    assert run.work.plan in ("loop", "vmap")
    assert run.plan is not None
    assert run.plan.comparison is not None
    errors = run.plan.comparison.errors
    for plan in ("loop_channels_last", "loop_mixed"):
        assert "a meta-gradient that is off by" in run.plan.left_out[plan]
        assert errors[plan] > 10 * errors["loop"]


@pytest.mark.parametrize(("times", "is_right"), [(0.05, False), (0.2, True)])
def test_an_error_that_the_loop_nearly_has_too_is_no_objection(
    times: float, is_right: bool
) -> None:
    trial = trial_of(run_of(model(WrongUnderVmap())))
    assert trial.objection("vmap", 2, WRONG) is not None
    assert trial.comparison is not None
    error = trial.comparison.errors["vmap"]
    trial._reference = dataclasses.replace(trial._reference, loop_error=times * error)
    assert (trial.objection("vmap", 2, WRONG) is None) is is_right


class Float32Loss:
    """Weighs the outputs by a tensor of its own."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction @ torch.ones(1, 1), target)


def test_where_float64_cannot_be_had_the_loop_is_compared_in_float32() -> None:
    trial = trial_of(run_of(loss=Float32Loss()))
    assert trial.objection("vmap", 2, INEXACT) is None
    assert trial.comparison is not None
    assert trial.comparison.reference == "float32"
    assert 0 < trial.comparison.errors["loop"] < 1e-5
    wrong = objection_to(run_of(model(WrongUnderVmap()), loss=Float32Loss()))
    assert wrong is not None
    assert "against loop in float32" in wrong


@pytest.mark.parametrize(("steps", "expected"), [(8, 8), (8, 3)])
def test_fewer_inner_steps_are_compared_where_memory_is_short(steps: int, expected: int) -> None:
    run = run_of(algorithm__inner_steps=steps)
    inputs, estimator = first_block_inputs(run), ESTIMATORS["exact"].make()
    peak = planning.block_peak("loop", estimator, planning.sized(inputs, 2, steps))
    limit = 2 * peak * expected / steps
    assert loop_reference(estimator, inputs, limit).inner_steps == expected


def nothing(prediction: Tensor, target: Tensor) -> Tensor:
    return 0 * F.mse_loss(prediction, target)


def test_a_gradient_of_zero_is_not_compared() -> None:
    trial = trial_of(run_of(loss=nothing))
    assert trial.objection("vmap", 2, WRONG) is None
    assert trial.comparison is None


def test_the_same_run_is_judged_the_same_and_no_random_number_is_taken() -> None:
    before = torch.random.get_rng_state()
    errors = []
    for _ in range(2):
        trial = trial_of(run_of())
        trial.objection("vmap", 2, WRONG)
        errors.append(trial.comparison)
    assert errors[0] == errors[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_modules_that_are_right_are_not_suspected() -> None:
    layers = nn.Sequential(nn.Linear(1, 8), nn.GroupNorm(2, 8), nn.ReLU(inplace=True))
    run = run_of(nn.Sequential(layers, nn.Linear(8, 1)))
    assert suspected_modules(first_block_inputs(run)) == []


class Sequence(nn.Module):
    """An LSTM over an input of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x[:, None])[0][:, -1])
        return out


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # by vmap, of the LSTM
def test_a_plan_that_cannot_evaluate_is_not_taken(vmap_is_fastest: None) -> None:
    settings, module = {"gradient": "checkpointed"}, Sequence()
    run = planned(run_of(module, compute__plan="auto", **settings))
    assert run.work.plan == "loop"
    assert run.plan is not None
    assert "an evaluation that fails: " in run.plan.left_out["vmap"]
    with pytest.raises(ValueError, match=r"plan=vmap must .* an evaluation that fails.*or auto$"):
        planned(run_of(module, **settings))
    assert planned(run_of(module, compute__plan="loop", **settings)).work.plan == "loop"


@pytest.mark.parametrize("plan", ["auto", "loop"])
def test_a_model_that_cannot_evaluate_at_all_is_refused(
    plan: str, vmap_is_fastest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(work: TaskWork, vector: Vector, block: Block) -> NoReturn:
        raise RuntimeError(f"no prediction in {block.phase}")

    monkeypatch.setattr(TaskWork, "evaluate", fail)
    with pytest.raises(
        ValueError, match=r"evaluation that fails: no prediction in test; change th"
    ):
        planned(run_of(compute__plan=plan))


def strokes() -> nn.Module:
    """Two blocks of convolution, ReLU and max-pool, as in conv4, without its normalisation."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(4 * 7 * 7, 2)),
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # by torch itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_code_on_images_with_a_flat_background_is_judged_by_its_error() -> None:
    """Equal values tie in ReLU and max-pool; which of them gets the gradient may differ."""
    settings = {"task": "glyphs", "task__ways": 2, "task__queries": 2, "algorithm": "maml"}
    run = run_of(strokes(), **settings, algorithm__inner_steps=1, compute__plan="compiled")
    inputs = first_block_inputs(run)
    windows = F.unfold(inputs.tasks.query.x.flatten(0, 1), 2, stride=2)
    assert (windows.amin(1) == windows.amax(1)).float().mean() > 0.5  # ties in most of them
    program = block_program("compiled", run.work.estimator, inputs.algorithm, 2)
    loop = block_program("loop", run.work.estimator, inputs.algorithm)
    expected = flat(loop(*in_float64(inputs)[1:]).gradients)
    errors = {
        plan: float((flat(compute(*inputs[1:]).gradients) - expected).norm() / expected.norm())
        for plan, compute in (("loop", loop), ("compiled", program))
    }
    trial = trial_of(run)
    for least in (WRONG, INEXACT):
        objection = trial.objection("compiled", 2, least, program)
        assert (objection is not None) == (errors["compiled"] > max(least, 10 * errors["loop"]))
    assert trial.comparison is not None
    assert trial.comparison.errors["compiled"] == pytest.approx(errors["compiled"], rel=1e-3)
    assert trial.comparison.errors["loop"] == pytest.approx(errors["loop"], rel=1e-3)
