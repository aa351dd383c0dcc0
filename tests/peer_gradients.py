"""Meta-gradients of other libraries and of a dense solve, on models and tasks of their own.

What `tests/peers.py` compares dmeta with; knows none of dmeta's mathematics. A library is imported
where it is used: none is a dependency of dmeta.

Letters: T tasks, P parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.inner_loop import RATE
from dmeta.bilevel.types import Examples, Kind, Params, Task
from dmeta.models import MODELS
from tests.bilevel.problems import draw_tasks

LR = 0.1

Gradient: TypeAlias = dict[str, Tensor]
"""Name, as dmeta has it -> meta-gradient, summed over the tasks."""


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

    @property
    def names(self) -> list[str]:
        """Of the parameters, which dmeta calls the same."""
        return [name for name, _ in self.module.named_parameters()]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(p.detach() for p in self.module.parameters())

    def each_task(self) -> list[Task]:
        """The T tasks, not stacked."""
        T = len(self.tasks.support.x)
        return [Task(*(Examples(*(t[i] for t in part)) for part in self.tasks)) for i in range(T)]

    def support_loss(self, weights: tuple[Tensor, ...], support: Examples) -> Tensor:
        """Of the module with `weights` in place of its own."""
        params = dict(zip(self.names, weights, strict=True))
        return self.loss(torch.func.functional_call(self.module, params, (support.x,)), support.y)


def setting(
    model: str, kind: Kind, norm: bool = True, proximal: float = 2.0, **options: Any
) -> Setting:
    shape = (1, 16, 16) if model == "conv4" else (2,)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = MODELS[model].make(input_shape=shape, num_outputs=3, **options).double()
    for block in list(module.children()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                if not norm:
                    setattr(block, name, nn.Identity())
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    loss = F.cross_entropy if kind == "classification" else F.mse_loss
    return Setting(module, loss, draw_tasks(kind, shape, seed=1), proximal)


SETTINGS: dict[str, Callable[[], Setting]] = {
    "mlp, regression": lambda: setting("mlp", "regression", hidden=5),
    "mlp, cross-entropy": lambda: setting("mlp", "classification", hidden=5),
    "conv4 without norm": lambda: setting("conv4", "classification", norm=False, filters=3),
    "conv4, batch-norm": lambda: setting("conv4", "classification", proximal=40.0, filters=3),
}


def of_learn2learn(
    at: Setting, params: Params, steps: int, method: str, first_order: bool, together: bool = False
) -> Gradient:
    """Its MAML, MetaSGD, or MAML of the head alone on features (its recipe for ANIL).

    Args:
        at: model and tasks.
        params: meta-parameters, of which the rates are read.
        steps: inner steps.
        method: ``maml``, ``anil`` or ``meta_sgd``.
        first_order: the library's switch.
        together: compute ANIL's features of support and query set in one batch, as it does.
    """
    from learn2learn.algorithms.maml import MAML
    from learn2learn.algorithms.meta_sgd import MetaSGD

    body, head = (at.module[:-1], at.module[-1]) if method == "anil" else (nn.Identity(), at.module)
    rates = {n: nn.Parameter(r.clone()) for n, r in params.items() if n.startswith(RATE)}
    if method == "meta_sgd":
        lrs = nn.ParameterList(rates[RATE + name] for name in at.names)
        learner = MetaSGD(head, lrs=lrs, first_order=first_order)
    else:
        learner = MAML(head, lr=LR, first_order=first_order)
    total = torch.zeros((), dtype=torch.float64)
    for support, query in at.each_task():
        if together:
            features = body(torch.cat([support.x, query.x])).split([len(support.x), len(query.x)])
        else:
            features = body(support.x), body(query.x)
        clone = learner.clone()
        for _ in range(steps):
            clone.adapt(at.loss(clone(features[0]), support.y))
        total = total + at.loss(clone(features[1]), query.y)
    leaves = dict(zip(at.names, at.module.parameters(), strict=True)) | rates
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


def of_higher(at: Setting, params: Params, steps: int) -> Gradient:
    """MAML by its differentiable SGD."""
    import higher

    optimizer = torch.optim.SGD(at.module.parameters(), lr=LR)
    total = torch.zeros((), dtype=torch.float64)
    for support, query in at.each_task():
        with higher.innerloop_ctx(at.module, optimizer, copy_initial_weights=False) as (
            model,
            inner,
        ):
            for _ in range(steps):
                inner.step(at.loss(model(support.x), support.y))
            total = total + at.loss(model(query.x), query.y)
    gradients = torch.autograd.grad(total, list(at.module.parameters()))
    return dict(zip(at.names, gradients, strict=True))


def proximal_objective(
    at: Setting, iterate: tuple[Tensor, ...], centre: tuple[Tensor, ...], support: Examples
) -> Tensor:
    """G of iMAML, Rajeswaran et al. 2019 (arXiv:1909.04630), eq. 3."""
    away = [(w - c).square().sum() for w, c in zip(iterate, centre, strict=True)]
    return at.support_loss(iterate, support) + at.proximal / 2 * torch.stack(away).sum()


def of_torchopt(at: Setting, params: Params, steps: int, cg_steps: int) -> Gradient:
    """iMAML by its decorator of a solver, whose steps are its own SGD's."""
    import torchopt

    objective = functools.partial(proximal_objective, at)

    @torchopt.diff.implicit.custom_root(
        torch.func.grad(objective, argnums=0),
        argnums=1,
        solve=torchopt.linear_solve.solve_cg(maxiter=cg_steps, rtol=1e-15),
    )
    def solve(
        iterate: tuple[Tensor, ...], centre: tuple[Tensor, ...], support: Examples
    ) -> tuple[Tensor, ...]:
        optimizer = torchopt.FuncOptimizer(torchopt.sgd(at.proximal_lr))
        for _ in range(steps):
            with torch.enable_grad():
                leaves = tuple(w.detach().requires_grad_() for w in iterate)
                loss = objective(leaves, centre, support)
            iterate = optimizer.step(loss, leaves)
        return tuple(w.detach() for w in iterate)

    centre = tuple(w.requires_grad_() for w in at.weights)
    total = torch.zeros((), dtype=torch.float64)
    for support, query in at.each_task():
        total = total + at.support_loss(solve(at.weights, centre, support), query)
    return dict(zip(at.names, torch.autograd.grad(total, centre), strict=True))


def of_dense_solve(at: Setting, params: Params, steps: int) -> Gradient:
    """iMAML by eq. 6 of its paper as it stands, with the Hessian [P, P] written out."""
    shapes = [w.shape for w in at.weights]
    centre = torch.cat([w.reshape(-1) for w in at.weights])

    def named(vector: Tensor) -> tuple[Tensor, ...]:
        parts = vector.split([math.prod(shape) for shape in shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))

    def loss(examples: Examples, vector: Tensor) -> Tensor:
        return at.support_loss(named(vector), examples)

    def gradient(examples: Examples, vector: Tensor) -> Tensor:
        leaf = vector.detach().requires_grad_()
        return torch.autograd.grad(loss(examples, leaf), leaf)[0]

    total = torch.zeros_like(centre)
    for support, query in at.each_task():
        w = centre
        for _ in range(steps):
            w = w - at.proximal_lr * (gradient(support, w) + at.proximal * (w - centre))
        # Row by row, not vectorised: that would be vmap (see dmeta/models/network.py).
        hessian = torch.autograd.functional.hessian(functools.partial(loss, support), w)
        matrix = torch.eye(len(w), dtype=w.dtype) + hessian / at.proximal
        assert torch.linalg.eigvalsh(matrix)[0] > 0, "conjugate gradient is for a minimum"
        total = total + torch.linalg.solve(matrix, gradient(query, w))
    return dict(zip(at.names, named(total), strict=True))
