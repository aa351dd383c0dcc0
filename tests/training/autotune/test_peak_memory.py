"""The memory meter on what has a known answer, and against torch's own profiler."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import block_gradient
from dmeta.training.autotune.peak_memory import peak_bytes
from tests.bilevel.problems import TRAINING, problem
from tests.grids import covering

N = 1000
BYTES = 4 * N
X = torch.linspace(0.1, 1.0, N)


def freed() -> None:
    first = torch.zeros(N)
    del first
    torch.zeros(N)


def views_and_changes_in_place() -> Tensor:
    made = torch.zeros(N)
    return made.view(10, -1).t()[1:].add_(1.0).detach()


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda: None, 0),
        (lambda: torch.zeros(N), BYTES),
        (lambda: torch.zeros(N, dtype=torch.float64), 2 * BYTES),
        (lambda: (torch.zeros(N), torch.zeros(N)), 2 * BYTES),
        (freed, BYTES),
        (views_and_changes_in_place, BYTES),
        (lambda: X[1:].view(-1), 0),
        (lambda: X + 1, BYTES),
        (lambda: (X + 1) + 1, 2 * BYTES),
    ],
)
def test_it_counts_tensors_that_live_at_the_same_time(
    compute: Callable[[], object], expected: int
) -> None:
    assert peak_bytes(compute) == expected


def chain(num_ops: int) -> Callable[[], object]:
    """A gradient through so many sines, each of which keeps its input for the way back."""

    def compute() -> object:
        x = y = X.clone().requires_grad_(True)
        for _ in range(num_ops):
            y = y.sin()
        return torch.autograd.grad(y.sum(), x)

    return compute


def test_saved_activations_grow_with_every_operation() -> None:
    peaks = [peak_bytes(chain(num_ops)) for num_ops in (5, 6, 7, 20)]
    assert [later - peaks[0] for later in peaks] == [0, BYTES, 2 * BYTES, 15 * BYTES]


def test_it_sees_through_vmap_and_grad() -> None:
    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda v: v.sin().sin().sum())(x)

    one = peak_bytes(lambda: torch.func.vmap(gradient)(X.expand(1, N)))
    many = peak_bytes(lambda: torch.func.vmap(gradient)(X.expand(7, N)))
    assert many == pytest.approx(7 * one, rel=0.01)
    assert many >= 7 * 3 * BYTES


def profiled_peak(compute: Callable[[], object]) -> int:
    """The same by the allocator's own events, which torch's profiler records."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = compute()
    del result
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    live = peak = 0
    for _, change in sorted(changes, key=lambda row: row[0]):
        live += change
        peak = max(peak, live)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "gradient", "plan"),
    covering(product(("mlp", "conv4"), ("exact", "checkpointed"), ("loop", "vmap"))),
)
def test_a_block_of_meta_gradients_has_the_peak_that_the_profiler_sees(
    model: str, gradient: str, plan: str
) -> None:
    bigger = {"hidden": 60} if model == "mlp" else {"filters": 8}
    at = problem(model, model_options=bigger, inner_steps=3)
    estimator = ESTIMATORS[gradient].make()

    def compute() -> object:
        return block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)

    compute()
    peak = peak_bytes(compute)
    assert peak == peak_bytes(compute), "the same every time"
    assert peak == pytest.approx(profiled_peak(compute), rel=0.05)
