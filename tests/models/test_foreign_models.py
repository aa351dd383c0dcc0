"""Meta-gradients of models that people bring, against plain autograd.

`python -m tests.models.test_foreign_models` prints the table of docs/correctness.md.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.compiled import CompiledBlocks, NotCompilable
from dmeta.bilevel.estimators import (
    Checkpointed,
    FiniteDifference,
    displacement,
    exact,
    first_order,
)
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Examples, Stage, Task
from dmeta.models.network import Network
from tests.bilevel.problems import flat, relative_error
from tests.models.foreign_models import DETERMINISTIC, RANDOM, REFERENCES, REFUSED, WAYS, made

INNER = InnerLoop(inner_lr=0.1, inner_steps=2)
TRAINING = Stage(training=True, ways=WAYS)
SEEDS = torch.tensor([3, 2**32 - 1])
ESTIMATORS: dict[str, tuple[Estimator, float]] = {
    "exact": (exact, 1e-9),
    "checkpointed": (Checkpointed(), 1e-9),
    "first_order": (first_order, 1e-9),
    "finite_difference": (FiniteDifference(1e-7), 1e-4),
    "displacement": (displacement, 1e-9),
}
"""Name -> estimator, and the largest relative error of it."""

SCREENED = {"vmap": ("exact", "first_order"), "compiled": ("exact",)}
"""Estimators that are tried with a plan; by the loop, all."""

NO_VMAP = ("LSTM", "GRU", "Transformer, dropout")
"""RNN kernels cannot be mapped; attention dropout draws from torch's generator."""


def tasks_for(shape: tuple[int, ...], seed: int = 0) -> Task:
    """T = 2 tasks of 6 support and 6 query examples."""
    rng = torch.Generator().manual_seed(seed)
    xs = (torch.randn(2, 6, *shape, generator=rng, dtype=torch.float64) for _ in range(2))
    labels = (torch.arange(6) % WAYS).expand(2, 6)
    return Task(*(Examples(x, labels) for x in xs))


def network_of(module: nn.Module, shape: tuple[int, ...]) -> Network:
    """The network as a run makes it, in training mode."""
    example = tasks_for(shape, seed=9).support.x[0]
    return Network.of(module).traced(example).to("cpu", training=True)


def by_autograd(module: nn.Module, tasks: Task, estimator: str) -> dict[str, Tensor]:
    """The sum of the tasks' meta-gradients, by torch.autograd.grad alone."""
    module = copy.deepcopy(module).train()
    theta = {n: p for n, p in module.named_parameters() if p.requires_grad}
    total = {n: torch.zeros_like(p) for n, p in theta.items()}
    second_order = estimator in ("exact", "checkpointed", "finite_difference")
    for i in range(2):
        w = dict(theta)
        for _ in range(INNER.inner_steps):
            logits = torch.func.functional_call(module, w, (tasks.support.x[i],))
            loss = F.cross_entropy(logits, tasks.support.y[i])
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                g = torch.autograd.grad(loss, list(w.values()), create_graph=second_order)
            w = {n: p - 0.1 * d for (n, p), d in zip(w.items(), g, strict=True)}
        if estimator == "displacement":
            total = {n: t + (theta[n] - w[n]).detach() for n, t in total.items()}
            continue
        logits = torch.func.functional_call(module, w, (tasks.query.x[i],))
        loss = F.cross_entropy(logits, tasks.query.y[i])
        got = torch.autograd.grad(loss, list(theta.values()))
        total = {n: total[n] + d for n, d in zip(total, got, strict=True)}
    return total


def gradient_of(plan: str, estimator: Estimator, network: Network, tasks: Task) -> Tensor:
    """The flat meta-gradient of MAML by a plan; compiled: the program, run as it was traced."""
    params = network.init_params()
    algorithm = Maml(network, F.cross_entropy, INNER)
    if plan == "compiled":
        program = CompiledBlocks(estimator, algorithm, compile_graph=lambda graph: graph)
        return flat(program(params, tasks, TRAINING, SEEDS).gradients)
    result = block_gradient(plan, estimator, algorithm, params, tasks, TRAINING, SEEDS)  # type: ignore[arg-type]
    return flat(result.gradients)


def errors(name: str) -> dict[tuple[str, str], float | str]:
    """(estimator, plan) -> relative error against plain autograd, or why it was refused."""
    make, shape = DETERMINISTIC[name]
    tasks = tasks_for(shape)
    given, module = made(make), made(REFERENCES.get(name, make))
    module.load_state_dict(given.state_dict())
    network = network_of(given, shape)
    found: dict[tuple[str, str], float | str] = {}
    for estimator, (function, _) in ESTIMATORS.items():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = flat(by_autograd(module, tasks, estimator))
        for plan in ("loop", "vmap", "compiled"):
            if estimator not in SCREENED.get(plan, ESTIMATORS):
                continue
            try:
                got = gradient_of(plan, function, network, tasks)
                found[estimator, plan] = relative_error(got, expected)
            except (RuntimeError, NotCompilable) as error:
                found[estimator, plan] = str(error).partition("\n")[0]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # mapped by a loop in torch
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_plan_and_estimator_is_plain_autograd(name: str) -> None:
    for (estimator, plan), error in errors(name).items():
        if name in NO_VMAP and plan != "loop":
            assert isinstance(error, str), "now mapped: take it off the list"
        else:
            assert isinstance(error, float), error
            assert error < ESTIMATORS[estimator][1], (estimator, plan, error)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_what_is_drawn_is_the_same_for_every_plan_chunk_and_recomputation(name: str) -> None:
    make, shape = RANDOM[name]
    network, tasks = network_of(made(make), shape), tasks_for(shape)
    algorithm, params = Maml(network, F.cross_entropy, INNER), network.init_params()
    expected = gradient_of("loop", exact, network, tasks)
    assert torch.equal(gradient_of("loop", exact, network, tasks), expected)
    for estimator in ("checkpointed", "finite_difference"):
        function, bound = ESTIMATORS[estimator]
        assert relative_error(gradient_of("loop", function, network, tasks), expected) < bound
    if name in NO_VMAP:
        with pytest.raises(RuntimeError, match=r"draws from torch's generator.*plan loop"):
            gradient_of("vmap", exact, network, tasks)
    else:
        assert relative_error(gradient_of("vmap", exact, network, tasks), expected) < 1e-12
        assert relative_error(gradient_of("compiled", exact, network, tasks), expected) < 1e-12
        part = block_gradient(
            "vmap", exact, algorithm, params, tasks, TRAINING, SEEDS, chunk_size=1
        )
        assert relative_error(flat(part.gradients), expected) < 1e-12
    other = block_gradient("loop", exact, algorithm, params, tasks, TRAINING, SEEDS + 1)
    assert relative_error(flat(other.gradients), expected) > 1e-3, "the seed decides"
    still = network.to("cpu", training=False)
    assert relative_error(gradient_of("loop", exact, still, tasks), expected) > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_function_of_its_parameters_is_refused(name: str) -> None:
    make, shape, message = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = make()
        with pytest.raises(ValueError, match=message):
            Network.of(module.double()).traced(torch.randn(6, *shape).double())


if __name__ == "__main__":
    for name in DETERMINISTIC:
        found = errors(name)
        numbers = [error for error in found.values() if isinstance(error, float)]
        exact_ones = [e for (n, _), e in found.items() if n != "finite_difference"]
        worst = max(e for e in exact_ones if isinstance(e, float))
        refusals = sorted({error for error in found.values() if isinstance(error, str)})
        print(f"| {name} | {worst:.1e} | {max(numbers):.1e} | {'; '.join(refusals)} |")
