"""Small outer loops that the tests of the server share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmeta.bilevel.flat import Layout, sha256_of
from dmeta.runtime.messages import ApplyReport, Gradient, Vector
from dmeta.training.outer import torch_optimizers
from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.server import OuterLoop, OuterLoopFactory

LAYOUT = Layout(("w", "b"), ((2, 3), (2,)))
NUM_STEPS = 10
OPTIMIZERS = [
    OuterOptions("adam", lr=0.1),
    OuterOptions("adam", lr=0.1, schedule="cosine", options={"betas": [0.0, 0.9], "eps": 1e-4}),
    OuterOptions("sgd", lr=0.1),
    OuterOptions("sgd", lr=0.1, schedule="linear", final_lr=0.01, options={"momentum": 0.9}),
    OuterOptions("adamw", lr=0.1, warmup_steps=3, options={"weight_decay": 0.1, "amsgrad": True}),
    *(
        OuterOptions(name, lr=0.1)
        for name in torch_optimizers.OPTIMIZERS
        if name not in ("adam", "adamw", "sgd")
    ),
]


def normal(seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(LAYOUT.size).astype(np.float32)


def outer(options: OuterOptions | None = None, layout: Layout = LAYOUT) -> OuterLoop:
    return OuterLoopFactory(
        normal(0)[: layout.size], layout, options or OuterOptions("sgd", lr=1.0), NUM_STEPS
    ).build()


def apply(loop: OuterLoop, step: int, gradients: Sequence[Gradient], num_tasks: int) -> ApplyReport:
    """A step of the one server of the whole vector."""
    return loop.commit(step, [loop.gather(gradients, num_tasks)])


def digest(loop: OuterLoop) -> str:
    return sha256_of(LAYOUT, loop.vector())


def blocks(step: int) -> list[Vector]:
    """Two blocks' summed gradients, read-only as they come out of shared memory."""
    found = [normal(100 + 2 * step), normal(101 + 2 * step)]
    for gradient in found:
        gradient.flags.writeable = False
    return found


def factory_of(layout: Layout = LAYOUT, options: OuterOptions | None = None) -> OuterLoopFactory:
    options = options or OuterOptions("adam")
    return OuterLoopFactory(normal(0)[: layout.size], layout, options, NUM_STEPS)
