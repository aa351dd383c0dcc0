"""What `tests/peers.py` gives to dmeta and to its peers, and a peer of its own: a dense solve.

Knows none of dmeta's mathematics. What other libraries make of the same work is in
`tests.peers.libraries`.

Letters: T tasks, P parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.bilevel.transforms.rate import RATE
from dmeta.bilevel.types import Examples, Kind, Params, Task
from dmeta.models import MODELS
from tests.bilevel.problems import draw_tasks
from tests.peers.libraries import Gradient, Method, Work

LR = 0.1


@dataclass(frozen=True)
class Setting:
    """A model and tasks.

    Attributes:
        module: plain torch, its `nn.BatchNorm2d` on batch statistics; its last child is the head.
        loss: support and query loss.
        tasks: T tasks, stacked.
        proximal: lambda of iMAML's inner problem. It has to outweigh the least eigenvalue of the
            support loss's Hessian, which is about -20 with batch-norm of so few rows.
    """

    module: nn.Sequential
    loss: Callable[[Tensor, Tensor], Tensor]
    tasks: Task
    proximal: float

    @property
    def proximal_lr(self) -> float:
        """Of iMAML's inner steps."""
        return 0.2 / self.proximal

    def work(
        self, params: Params, steps: int, method: Method, first_order: bool, cg_steps: int = 0
    ) -> Work:
        """What a peer computes.

        Args:
            params: meta-parameters, of which the rates are read.
            steps: inner steps.
            method: whose meta-gradient.
            first_order: whether inner gradients are constants.
            cg_steps: of iMAML.
        """
        return Work(
            module=self.module,
            loss=self.loss,
            tasks=self.tasks,
            method=method,
            first_order=first_order,
            inner_lr=self.proximal_lr if method == "imaml" else LR,
            inner_steps=steps,
            rates={n.removeprefix(RATE): p for n, p in params.items() if n.startswith(RATE)},
            proximal=self.proximal,
            cg_steps=cg_steps,
            cg_tolerance=1e-15,
        )


def setting(
    model: str,
    kind: Kind,
    norm: bool = True,
    proximal: float = 2.0,
    ways: int = 3,
    **options: Any,
) -> Setting:
    shape = (1, 16, 16) if model == "conv4" else (2,)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = MODELS[model].make(input_shape=shape, num_outputs=ways, **options).double()
    for block in list(module.children()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                if not norm:
                    setattr(block, name, nn.Identity())
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    loss = F.cross_entropy if kind == "classification" else F.mse_loss
    tasks = draw_tasks(kind, shape, seed=1, S=2 * ways, Q=2 * ways - 1, W=ways)
    return Setting(module, loss, tasks, proximal)


SETTINGS: dict[str, Callable[[], Setting]] = {
    "mlp, regression": lambda: setting("mlp", "regression", hidden=5),
    "mlp, cross-entropy": lambda: setting("mlp", "classification", hidden=5),
    "conv4 without norm": lambda: setting("conv4", "classification", norm=False, filters=3),
    "conv4, batch-norm": lambda: setting("conv4", "classification", proximal=40.0, filters=3),
    "conv4, batch-norm, 5-way": lambda: setting(
        "conv4", "classification", proximal=40.0, ways=5, filters=8
    ),
}


def of_dense_solve(work: Work) -> Gradient:
    """iMAML by eq. 6 of its paper as it stands, with the Hessian [P, P] written out."""
    shapes = [w.shape for w in work.weights]
    centre = torch.cat([w.reshape(-1) for w in work.weights])

    def named(vector: Tensor) -> tuple[Tensor, ...]:
        parts = vector.split([math.prod(shape) for shape in shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))

    def loss(examples: Examples, vector: Tensor) -> Tensor:
        return work.loss_at(named(vector), examples)

    def gradient(examples: Examples, vector: Tensor) -> Tensor:
        leaf = vector.detach().requires_grad_()
        return torch.autograd.grad(loss(examples, leaf), leaf)[0]

    total = torch.zeros_like(centre)
    for support, query in work.each_task():
        w = centre
        for _ in range(work.inner_steps):
            w = w - work.inner_lr * (gradient(support, w) + work.proximal * (w - centre))
        # Row by row, not vectorised: that would be vmap (see dmeta/models/network.py).
        hessian = torch.autograd.functional.hessian(functools.partial(loss, support), w)
        matrix = torch.eye(len(w), dtype=w.dtype) + hessian / work.proximal
        assert torch.linalg.eigvalsh(matrix)[0] > 0, "conjugate gradient is for a minimum"
        total = total + torch.linalg.solve(matrix, gradient(query, w))
    return dict(zip(work.names, named(total), strict=True))
