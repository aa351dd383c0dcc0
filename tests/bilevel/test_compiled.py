"""The plan `compiled`: one program for all blocks of all steps, or a reason why there is none.

What is traced is run as it is, without the C++ compiler, in all tests but one: the same operations.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.compiled import CompiledBlocks, NotCompilable, block_program
from dmeta.bilevel.estimators import Annealed, exact
from dmeta.bilevel.plans import BlockGradient, block_gradient
from dmeta.bilevel.types import Stage, Task
from dmeta.models import MODELS
from tests.bilevel.problems import (
    DISTINCT,
    SMALL,
    TRAINING,
    Problem,
    draw_tasks,
    flat,
    has_option,
    problem,
    relative_error,
    sensible,
    takes_inner_steps,
)

# To write a program down takes seconds: each row is chosen. Every method by its own gradient, on
# images where these have code of their own (MAML on every model), and every gradient of MAML.
ON_IMAGES = ("anil", "meta_curvature", "cavia", "proto_maml")
DEEP = ("resnet18", "torchvision")  # nothing that resnet10 has not, and a minute each
TRIED = dict.fromkeys([
    *(("maml", model, "exact") for model in MODELS if model not in DEEP),
    *(("maml", "mlp", gradient) for gradient in sensible("maml")),
    *((a, "conv4" if a in ON_IMAGES else "mlp", str(ALGORITHMS[a].gradient)) for a in DISTINCT),
    *((a, "mlp", "exact") for a in ("learned_optimizer", "imaml")),
])  # fmt: skip
NUMBERS_OF_STEPS = ("inner_steps", "latent_steps", "finetuning_steps")
LOOKS_AT_THE_STEP = "a method that does not look at the outer step"
REFUSED = {
    "maml_pp": LOOKS_AT_THE_STEP,  # its multi-step loss is annealed
}


def uncompiled(graph: GraphModule) -> Callable[..., list[Tensor]]:
    return graph


def blocks_of(at: Problem, estimator: Any, chunk_size: int | None = None) -> CompiledBlocks:
    return CompiledBlocks(estimator, at.algorithm, chunk_size, compile_graph=uncompiled)


def check_same(got: BlockGradient, expected: BlockGradient, bound: float = 1e-10) -> None:
    assert {n: g.shape for n, g in got.gradients.items()} == {
        n: g.shape for n, g in expected.gradients.items()
    }
    assert flat(expected.gradients).norm() > 0
    assert relative_error(flat(got.gradients), flat(expected.gradients)) < bound
    torch.testing.assert_close(got.losses, expected.losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(got.predictions, expected.predictions, rtol=1e-10, atol=1e-10)
    assert got.notes.keys() == expected.notes.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "model", "gradient"), TRIED)
def test_the_program_is_the_loop_or_says_why_there_is_none(
    algorithm: str, model: str, gradient: str
) -> None:
    few = {key: 2 for key in NUMBERS_OF_STEPS if has_option(algorithm, key)}
    if not takes_inner_steps(algorithm):
        few.pop("inner_steps", None)
    at = problem(model, algorithm=algorithm, **few)
    estimator = ESTIMATORS[gradient].make()
    program = blocks_of(at, estimator)
    reason = LOOKS_AT_THE_STEP if gradient == "annealed" else REFUSED.get(algorithm)
    if reason is not None:
        with pytest.raises(NotCompilable, match=f"compute.plan=compiled must have .*{reason}"):
            program(at.params, at.tasks, TRAINING, None)
        return
    got = program(at.params, at.tasks, TRAINING, None)
    expected = block_gradient("loop", estimator, at.algorithm, at.params, at.tasks, TRAINING)
    check_same(got, expected, 1e-8 if gradient == "finite_difference" else 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 4])
def test_a_chunk_that_is_too_small_is_filled_up_with_what_counts_nothing(
    chunk_size: int | None,
) -> None:
    at = problem("mlp", inner_steps=2)
    tasks = draw_tasks("classification", SMALL["mlp"][1], seed=5, T=3)
    got = blocks_of(at, exact, chunk_size)(at.params, tasks, TRAINING, None)
    check_same(got, block_gradient("loop", exact, at.algorithm, at.params, tasks, TRAINING))
    assert len(got.losses) == 3


@pytest.mark.slow
def test_one_program_serves_every_step_and_smaller_blocks_too() -> None:
    at, written = problem("mlp"), []

    def count(graph: GraphModule) -> Callable[..., list[Tensor]]:
        written.append(graph)
        return graph

    program = CompiledBlocks(exact, at.algorithm, compile_graph=count)
    smaller = Task(*(type(part)(part.x[:1], part.y[:1]) for part in at.tasks))
    for step, tasks in enumerate((at.tasks, at.tasks, smaller)):
        stage = dataclasses.replace(TRAINING, step=step, seed=step)
        params = {name: p + 0.1 * step for name, p in at.params.items()}
        got = program(params, tasks, stage, None)
        check_same(got, block_gradient("loop", exact, at.algorithm, params, tasks, stage))
    assert len(written) == 1
    assert program.num_operations(at.params, at.tasks, TRAINING, None) == len(
        written[0].graph.nodes
    )
    other = draw_tasks("classification", SMALL["mlp"][1], seed=5, Q=4)
    program(at.params, other, TRAINING, None)
    assert len(written) == 2


def test_steps_drawn_for_every_outer_step_make_no_program() -> None:
    at = problem("mlp", inner_steps_max=3)
    with pytest.raises(NotCompilable, match=r"look at the step's seed; choose compute\.plan=vmap"):
        blocks_of(at, exact)(at.params, at.tasks, TRAINING, None)


@dataclass(frozen=True)
class Looking:
    """MAML whose query loss is doubled if `look` says so, at outer step 0."""

    learner: Any
    look: Callable[[Stage], Any]

    @property
    def loss(self) -> Any:
        return self.learner.loss

    def adapt(self, params: Any, support: Any, solve: Any, stage: Stage) -> Any:
        looked = self.look(stage)
        adapted = self.learner.adapt(params, support, solve, stage)
        return {n: 2 * w for n, w in adapted.items()} if looked else adapted

    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        return self.learner.predict(adapted, x)  # type: ignore[no-any-return]


def by_pattern(stage: Stage) -> bool:
    match stage.step:
        case 0:
            return True
    return False


def by_class_pattern(stage: Stage) -> bool:
    match stage:
        case Stage(step=0):
            return True
    return False


def defensively(stage: Stage) -> bool:
    try:
        return int(stage.step) == 0
    except (TypeError, ValueError):
        return True


LOOKS: dict[str, Callable[[Stage], Any]] = {
    "eq": lambda stage: stage.step == 0,
    "reflected eq": lambda stage: 0 == stage.step,  # noqa: SIM300 - the number is asked first
    "ne": lambda stage: stage.step != 1,
    "less": lambda stage: stage.step < 1,
    "in": lambda stage: stage.step in (0, 10),
    "in range": lambda stage: stage.step in range(1),
    "look-up": lambda stage: {0: True}.get(stage.step),
    "index": lambda stage: [True, False][stage.step],
    "slice": lambda stage: [1, 2, 3][stage.step :],
    "caught": defensively,
    "match": by_pattern,
    "match of a class": by_class_pattern,
    "hash": lambda stage: hash(stage.step) == 0,
    "isinstance": lambda stage: isinstance(stage.step, int),
    "type": lambda stage: type(stage.step) is int,
    "is": lambda stage: stage.step is not None,
    "bool": lambda stage: not stage.step,
    "int": lambda stage: int(stage.step) == 0,
    "float": lambda stage: float(stage.step) == 0,
    "round": lambda stage: round(stage.step) == 0,
    "abs": lambda stage: abs(stage.step),
    "minus": lambda stage: -stage.step,
    "sum": lambda stage: stage.step + 1,
    "bits": lambda stage: stage.step & 1,
    "divmod": lambda stage: divmod(stage.step, 2),
    "format": lambda stage: f"{stage.step:04d}",
    "text": lambda stage: str(stage.step) == "0",
    "text of a stage": lambda stage: "step=0" in str(stage),
    "attribute": lambda stage: stage.step.bit_length() == 0,
    "getattr": lambda stage: getattr(stage, "step", 0) == 0,
    "iteration": lambda stage: list(stage.step),  # type: ignore[call-overload]
    "tensor": lambda stage: torch.as_tensor(stage.step),
    "torch": lambda stage: torch.full((), stage.step),
    "numpy": lambda stage: np.asarray(stage.step) == 0,
    "generator": lambda stage: np.random.default_rng([stage.seed, stage.step]).random() > 0,
    "equal stages": lambda stage: stage == Stage(training=True, ways=3),
    "reflected equal stages": lambda stage: Stage(training=True, ways=3) == stage,
    "hash of a stage": lambda stage: hash(stage) == 0,
    "fields": lambda stage: dataclasses.asdict(stage)["step"] == 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_whatever_looks_at_the_outer_step_makes_no_program(look: str) -> None:
    at = problem("mlp")
    learner = Looking(at.algorithm, LOOKS[look])
    program = CompiledBlocks(exact, learner, compile_graph=uncompiled)
    with pytest.raises(NotCompilable, match=r"does not look at the (outer step|step's seed);"):
        program(at.params, at.tasks, TRAINING, None)


def test_a_method_may_take_anything_but_the_step_from_a_stage_and_make_another_of_it() -> None:
    at = problem("mlp")

    def look(stage: Stage) -> bool:
        other = dataclasses.replace(stage, inner_steps=2)
        return other.training and other.ways == 3 and isinstance(other, Stage)

    learner = Looking(at.algorithm, look)
    program = CompiledBlocks(exact, learner, compile_graph=uncompiled)
    got = program(at.params, at.tasks, dataclasses.replace(TRAINING, step=7, seed=5), None)
    check_same(got, block_gradient("loop", exact, learner, at.params, at.tasks, TRAINING))


def test_an_annealed_gradient_that_is_always_exact_still_looks_at_the_step() -> None:
    at = problem("mlp")
    with pytest.raises(NotCompilable, match=LOOKS_AT_THE_STEP):
        blocks_of(at, Annealed(0))(at.params, at.tasks, TRAINING, None)


def test_nothing_that_was_given_is_changed_and_no_graph_is_left() -> None:
    at = problem("mlp")
    given = [*at.params.values(), *at.tasks.support, *at.tasks.query]
    before = [t.clone() for t in given]
    program = blocks_of(at, exact)
    first, second = (program(at.params, at.tasks, TRAINING, None) for _ in range(2))
    assert all(torch.equal(t, was) for t, was in zip(given, before, strict=True))
    assert not any(t.requires_grad for t in (*first.gradients.values(), first.losses))
    assert torch.equal(flat(first.gradients), flat(second.gradients))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # by torch itself
def test_compiled_for_real_or_told_that_there_is_no_compiler() -> None:
    at = problem("mlp", inner_steps=1)
    program = block_program("compiled", exact, at.algorithm)
    expected = block_gradient("loop", exact, at.algorithm, at.params, at.tasks, TRAINING)
    try:
        got = program(at.params, at.tasks, TRAINING, None)
    except NotCompilable as error:
        refusal = str(error)
    else:
        refusal = None
        check_same(got, expected)
    assert refusal is None or shutil.which("g++") is None
    assert refusal is None or "compute.plan=compiled must have a compiler" in refusal
