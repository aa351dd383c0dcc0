"""Solvers walk the same way and differ in the derivative alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.chain import Chain
from dmeta.bilevel.inner import InnerOptimizer, InnerProblem
from dmeta.bilevel.solvers import recording, stop_gradient, unrolled
from dmeta.bilevel.transforms.adam import Adam
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Params

OPTIMIZERS = [
    Chain((Rate(0.1),), {}),
    Chain((Adam(beta1=0.0), Rate(0.1)), {}),
    Chain((Adam(beta1=0.9), Rate(0.1)), {}),
]
K = 4


def target(step: int) -> Tensor:
    """Another objective at every step, so that a step that is skipped or repeated shows."""
    return torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) + step


def start(requires_grad: bool = False) -> dict[str, Tensor]:
    w = torch.tensor([0.5, 0.3, -0.7], dtype=torch.float64)
    return {"w": w.requires_grad_(requires_grad)}


def problem_at(
    begin: Params, optimizer: InnerOptimizer, steps: int = K, finish: Any = None
) -> InnerProblem:
    return InnerProblem(
        objective=lambda w, step: ((w["w"] - target(step)) ** 4).sum(),
        start=begin,
        optimizer=optimizer,
        num_steps=steps,
        finish=finish or (lambda w, _: w),
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_all_solvers_take_the_same_steps(optimizer: InnerOptimizer) -> None:
    problem = problem_at(start(), optimizer)
    ends = [solve(problem)["w"] for solve in (unrolled, stop_gradient, recording(lambda _: None))]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], start()["w"])


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_steps_are_those_of_torch_optim(name: str, beta1: float) -> None:
    w = start(requires_grad=True)["w"]
    own: InnerOptimizer = (
        Chain((Rate(0.1),), {}) if name == "sgd" else Chain((Adam(beta1=beta1), Rate(0.1)), {})
    )
    reference: torch.optim.Optimizer = torch.optim.SGD([w], lr=0.1)
    if name == "adam":
        reference = torch.optim.Adam([w], lr=0.1, betas=(beta1, 0.999))
    for step in range(K):
        reference.zero_grad()
        ((w - target(step)) ** 4).sum().backward()
        reference.step()
    torch.testing.assert_close(
        unrolled(problem_at(start(), own))["w"], w.detach(), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("steps", [0, 1, K])
def test_recording_sees_the_adapted_state_after_every_step_and_before_the_first(
    steps: int,
) -> None:
    seen: list[Tensor] = []
    doubled = problem_at(start(), Chain((Rate(0.01),), {}), steps, finish=lambda w, _: 2 * w["w"])
    end = recording(seen.append)(doubled)
    assert len(seen) == steps + 1
    assert torch.equal(seen[-1], end)
    for k, state in enumerate(seen):
        alone = problem_at(start(), Chain((Rate(0.01),), {}), k, finish=lambda w, _: 2 * w["w"])
        assert torch.equal(state, unrolled(alone))


def test_stop_gradient_keeps_the_identity_and_nothing_of_the_inner_passes() -> None:
    begin = start(requires_grad=True)
    end = stop_gradient(problem_at(begin, Chain((Rate(0.01),), {})))["w"]
    (jacobian_row,) = torch.autograd.grad(end.sum(), begin["w"])
    assert torch.equal(jacobian_row, torch.ones(3, dtype=torch.float64))
    (exact_row,) = torch.autograd.grad(
        unrolled(problem_at(begin, Chain((Rate(0.01),), {})))["w"].sum(), begin["w"]
    )
    assert (exact_row - jacobian_row).norm() > 0.1
    seen_by_no_graph = stop_gradient(problem_at(start(), Chain((Rate(0.01),), {})))["w"]
    assert not seen_by_no_graph.requires_grad


def graph_size(tensor: Tensor) -> int:
    """Nodes of the autograd graph behind `tensor`."""
    seen: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_the_graph_of_stop_gradient_is_one_subtraction_a_step() -> None:
    begin = start(requires_grad=True)
    sizes = {
        solve: graph_size(solve(problem_at(begin, Chain((Rate(0.01),), {})))["w"])
        for solve in (stop_gradient, unrolled)
    }
    assert sizes[stop_gradient] == K + 1  # and the leaf
    assert sizes[unrolled] > 5 * K


def test_recording_has_no_derivative_through_its_steps() -> None:
    begin = start(requires_grad=True)
    seen: list[Params] = []
    recording(seen.append)(problem_at(begin, Chain((Adam(beta1=0.0), Rate(0.1)), {})))
    (row,) = torch.autograd.grad(seen[-1]["w"].sum(), begin["w"])
    assert torch.equal(row, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("solve", [unrolled, stop_gradient, recording(lambda _: None)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_walk_does_not_change_its_start(solve: Any, optimizer: InnerOptimizer) -> None:
    begin = start()
    solve(problem_at(begin, optimizer))
    assert torch.equal(begin["w"], start()["w"])


@pytest.mark.parametrize(
    ("solve", "through_the_objective"),
    [(unrolled, True), (stop_gradient, False), (recording(lambda _: None), False)],
)
def test_only_unrolled_differentiates_what_the_objective_closes_over(
    solve: Any, through_the_objective: bool
) -> None:
    shift = torch.ones((), dtype=torch.float64, requires_grad=True)
    closing = InnerProblem(
        objective=lambda w, step: ((w["w"] - shift) ** 2).sum(),
        start=start(requires_grad=True),
        optimizer=Chain((Rate(0.1),), {}),
        num_steps=2,
        finish=lambda w, _: w,
    )
    (got,) = torch.autograd.grad(solve(closing)["w"].sum(), shift, materialize_grads=True)
    expected = 3 * (1 - (1 - 2 * 0.1) ** 2) if through_the_objective else 0.0
    assert float(got) == pytest.approx(expected, abs=1e-12)
