"""Chains of inner transforms against the optimisers of torch.optim, in float64, over many steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dmeta.bilevel.chain import Chain, Transform
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.transforms.adadelta import Adadelta
from dmeta.bilevel.transforms.adam import Adam
from dmeta.bilevel.transforms.momentum import Momentum
from dmeta.bilevel.transforms.nesterov import Nesterov
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.transforms.rmsprop import RMSprop
from dmeta.bilevel.transforms.weight_decay import WeightDecay

STEPS = 200
BOUND = 1e-12
SQUARES_BOUND = 1e-11  # of rules whose root is of the mean square plus eps^2 (see `Adam`)

Peer = Callable[[list[Tensor]], torch.optim.Optimizer]

# name -> (chain, torch's optimiser, bound on the largest difference of a weight)
CASES: dict[str, tuple[tuple[Transform, ...], Peer, float]] = {
    "SGD": ((Rate(0.05),), lambda w: torch.optim.SGD(w, 0.05), BOUND),
    "SGD, momentum": (
        (Momentum(0.8), Rate(0.05)),
        lambda w: torch.optim.SGD(w, 0.05, momentum=0.8),
        BOUND,
    ),
    "SGD, weight decay, momentum": (
        (WeightDecay(0.1), Momentum(0.8), Rate(0.05)),
        lambda w: torch.optim.SGD(w, 0.05, momentum=0.8, weight_decay=0.1),
        BOUND,
    ),
    "SGD, Nesterov": (
        (Nesterov(0.8), Rate(0.05)),
        lambda w: torch.optim.SGD(w, 0.05, momentum=0.8, nesterov=True),
        BOUND,
    ),
    "Adadelta": (
        (Adadelta(0.8, 1e-5), Rate(0.5)),
        lambda w: torch.optim.Adadelta(w, 0.5, rho=0.8, eps=1e-5),
        BOUND,
    ),
    "Adam": (
        (Adam(0.8, 0.95), Rate(0.02)),
        lambda w: torch.optim.Adam(w, 0.02, betas=(0.8, 0.95)),
        SQUARES_BOUND,
    ),
    "Adam, L2": (
        (WeightDecay(0.1), Adam(0.8, 0.95), Rate(0.02)),
        lambda w: torch.optim.Adam(w, 0.02, betas=(0.8, 0.95), weight_decay=0.1),
        SQUARES_BOUND,
    ),
    "AdamW": (
        (Adam(0.8, 0.95), WeightDecay(0.1), Rate(0.02)),
        lambda w: torch.optim.AdamW(w, 0.02, betas=(0.8, 0.95), weight_decay=0.1),
        SQUARES_BOUND,
    ),
    "RMSprop": (
        (RMSprop(0.9), Rate(0.01)),
        lambda w: torch.optim.RMSprop(w, 0.01, alpha=0.9),
        SQUARES_BOUND,
    ),
}


def start() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (2, 6), "2.bias": (2,)}
    return {
        name: torch.randn(shape, generator=rng, dtype=torch.float64) / 2
        for name, shape in shapes.items()
    }


MODULE = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 2)).double()


def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(12, 4, generator=rng, dtype=torch.float64)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].cos()], dim=1)


def objective(weights: dict[str, Tensor], step: int) -> Tensor:
    x, y = data()
    # Each step sees other examples, as in mini-batches: then the state matters.
    rows = torch.arange(step, step + 5) % len(x)
    predicted = torch.func.functional_call(MODULE, weights, (x[rows],))
    return (predicted - y[rows]).square().mean()


def largest_difference(chain: tuple[Transform, ...], peer: Peer) -> float:
    """Over all steps and weights."""
    theirs = {name: p.clone().requires_grad_() for name, p in start().items()}
    optimizer = peer(list(theirs.values()))
    ours: list[dict[str, Tensor]] = []
    solve = recording(ours.append)
    solve(
        InnerProblem(
            objective=objective,  # type: ignore[arg-type]
            start=start(),
            optimizer=Chain(chain, {}),
            num_steps=STEPS,
            finish=lambda w, _: dict(w),
        )
    )
    worst = 0.0
    for step in range(STEPS):
        optimizer.zero_grad()
        objective(theirs, step).backward()
        optimizer.step()
        ahead = [(ours[step + 1][n] - p.detach()).abs().max() for n, p in theirs.items()]
        worst = max(worst, float(torch.stack(ahead).max()))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_a_chain_walks_as_torchs_optimiser(name: str) -> None:
    chain, peer, bound = CASES[name]
    worst = largest_difference(chain, peer)
    print(f"{name}: {worst:.1e}")
    assert worst < bound


def test_the_order_of_a_chain_matters() -> None:
    _, peer, _ = CASES["AdamW"]
    chain, _, _ = CASES["Adam, L2"]
    assert largest_difference(chain, peer) > 1e-2
