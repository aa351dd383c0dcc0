"""How other libraries (the peers) compute the meta-gradient of a block.

On a plain torch module, a loss and tasks that are given. A peer is imported where it is used (see
`tests.peers.packages`). Must not know dmeta's own mathematics, with which it is compared.

A task is differentiated as soon as its query loss is there, so that no peer has to hold the graphs
of all tasks at a time.

Letters: T tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dmeta.bilevel.transforms.rate import RATE
from dmeta.bilevel.types import Examples, Loss, Task

Gradient: TypeAlias = dict[str, Tensor]
"""Name, as dmeta has it -> meta-gradient, summed over the tasks."""

Method: TypeAlias = Literal["maml", "anil", "meta_sgd", "imaml"]

LABELS: dict[tuple[Method, bool], str] = {
    ("maml", False): "MAML",
    ("maml", True): "first-order MAML",
    ("anil", False): "ANIL",
    ("anil", True): "first-order ANIL",
    ("meta_sgd", False): "Meta-SGD",
    ("meta_sgd", True): "first-order Meta-SGD",
    ("imaml", False): "iMAML",
}
"""(method, whether first-order) -> what a user calls it."""


@dataclass(frozen=True)
class Work:
    """What is computed.

    Attributes:
        module: plain torch, at the initial weights; for ANIL an `nn.Sequential` whose last child is
            the head. A peer may put other tensors into it while it computes.
        loss: support and query loss.
        tasks: T tasks, stacked.
        method: whose meta-gradient.
        first_order: whether inner gradients are taken for constants.
        inner_lr: step size of the inner SGD.
        inner_steps: its steps.
        rates: Meta-SGD's learned rates instead of `inner_lr`: name of a parameter -> its rates.
        proximal: lambda of iMAML's inner problem.
        cg_steps: most steps of iMAML's conjugate gradient.
        cg_tolerance: the relative residual at which it stops.
    """

    module: nn.Module
    loss: Loss
    tasks: Task
    method: Method
    first_order: bool
    inner_lr: float
    inner_steps: int
    rates: Mapping[str, Tensor]
    proximal: float = 0.0
    cg_steps: int = 0
    cg_tolerance: float = 0.0

    @property
    def label(self) -> str:
        """What a user calls the method."""
        return LABELS[self.method, self.first_order]

    @property
    def names(self) -> list[str]:
        """Of the parameters, which dmeta calls the same."""
        return [name for name, _ in self.module.named_parameters()]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Of the module, detached."""
        return tuple(p.detach() for p in self.module.parameters())

    def each_task(self) -> list[Task]:
        """The T tasks, not stacked."""
        T = len(self.tasks.support.x)
        return [Task(*(Examples(*(t[i] for t in part)) for part in self.tasks)) for i in range(T)]

    def loss_at(self, weights: Sequence[Tensor], examples: Examples) -> Tensor:
        """Loss of the module with `weights` in place of its own."""
        params = dict(zip(self.names, weights, strict=True))
        out = torch.func.functional_call(self.module, params, (examples.x,))
        return self.loss(out, examples.y)


def of_learn2learn(work: Work, together: bool = False) -> Gradient:
    """Its MAML, MetaSGD, or MAML of the head alone on features (its recipe for ANIL).

    Args:
        work: what is computed.
        together: compute ANIL's features of support and query set in one batch, as it does.
    """
    from learn2learn.algorithms.maml import MAML
    from learn2learn.algorithms.meta_sgd import MetaSGD

    module: Any = work.module
    body, head = (module[:-1], module[-1]) if work.method == "anil" else (nn.Identity(), module)
    rates = {name: nn.Parameter(work.rates[name].clone()) for name in work.rates}
    if work.method == "meta_sgd":
        lrs = nn.ParameterList(rates[name] for name in work.names)
        learner = MetaSGD(head, lrs=lrs, first_order=work.first_order)
    else:
        learner = MAML(head, lr=work.inner_lr, first_order=work.first_order)
    leaves = dict(zip(work.names, module.parameters(), strict=True))
    leaves |= {RATE + name: rate for name, rate in rates.items()}

    def of_task(task: Task) -> Sequence[Tensor]:
        support, query = task
        if together:
            features = body(torch.cat([support.x, query.x])).split([len(support.x), len(query.x)])
        else:
            features = body(support.x), body(query.x)
        clone = learner.clone()
        for _ in range(work.inner_steps):
            clone.adapt(work.loss(clone(features[0]), support.y))
        return torch.autograd.grad(work.loss(clone(features[1]), query.y), list(leaves.values()))

    return _summed(work, list(leaves), of_task)


def of_higher(work: Work) -> Gradient:
    """MAML by its differentiable SGD.

    First-order without its higher gradients: of the query loss with respect to the last weights,
    which are then all that it tracks.
    """
    import higher

    module = work.module
    optimizer = torch.optim.SGD(module.parameters(), lr=work.inner_lr)

    def of_task(task: Task) -> Sequence[Tensor]:
        with higher.innerloop_ctx(
            module,
            optimizer,
            copy_initial_weights=False,
            track_higher_grads=not work.first_order,
        ) as (model, inner):
            for _ in range(work.inner_steps):
                inner.step(work.loss(model(task.support.x), task.support.y))
            loss = work.loss(model(task.query.x), task.query.y)
            leaves = model.parameters() if work.first_order else module.parameters()
            return torch.autograd.grad(loss, list(leaves))

    return _summed(work, work.names, of_task)


def of_torchopt(work: Work) -> Gradient:
    """MAML by its differentiable optimiser, or iMAML by its decorator of a solver."""
    return _torchopt_imaml(work) if work.method == "imaml" else _torchopt_maml(work)


def _torchopt_maml(work: Work) -> Gradient:
    """As in its few-shot example: weights and optimiser are put back after every task."""
    import torchopt

    module = work.module
    optimizer = torchopt.MetaSGD(module, lr=work.inner_lr)
    leaves = list(module.parameters())
    weights = torchopt.extract_state_dict(module, by="reference", detach_buffers=True)
    state = torchopt.extract_state_dict(optimizer, by="reference")

    def of_task(task: Task) -> Sequence[Tensor]:
        try:
            for _ in range(work.inner_steps):
                optimizer.step(work.loss(module(task.support.x), task.support.y))
            loss = work.loss(module(task.query.x), task.query.y)
        finally:
            torchopt.recover_state_dict(module, weights)
            torchopt.recover_state_dict(optimizer, state)
        return torch.autograd.grad(loss, leaves)

    return _summed(work, work.names, of_task)


def _torchopt_imaml(work: Work) -> Gradient:
    """A solver whose steps are its own SGD's, differentiated at its solution."""
    import torchopt

    objective = functools.partial(_proximal_objective, work)

    @torchopt.diff.implicit.custom_root(  # type: ignore[untyped-decorator, unused-ignore]
        torch.func.grad(objective, argnums=0),
        argnums=1,
        solve=torchopt.linear_solve.solve_cg(maxiter=work.cg_steps, rtol=work.cg_tolerance),
    )
    def solve(
        iterate: tuple[Tensor, ...], centre: tuple[Tensor, ...], support: Examples
    ) -> tuple[Tensor, ...]:
        optimizer = torchopt.FuncOptimizer(torchopt.sgd(work.inner_lr))
        for _ in range(work.inner_steps):
            with torch.enable_grad():
                leaves = tuple(w.detach().requires_grad_() for w in iterate)
                loss = objective(leaves, centre, support)
            iterate = optimizer.step(loss, leaves)
        return tuple(w.detach() for w in iterate)

    centre = tuple(w.requires_grad_() for w in work.weights)

    def of_task(task: Task) -> Sequence[Tensor]:
        loss = work.loss_at(solve(work.weights, centre, task.support), task.query)
        return torch.autograd.grad(loss, centre)

    return _summed(work, work.names, of_task)


def _proximal_objective(
    work: Work, iterate: tuple[Tensor, ...], centre: tuple[Tensor, ...], support: Examples
) -> Tensor:
    """G of iMAML, Rajeswaran et al. 2019 (arXiv:1909.04630), eq. 3."""
    away = [(w - c).square().sum() for w, c in zip(iterate, centre, strict=True)]
    return work.loss_at(iterate, support) + work.proximal / 2 * torch.stack(away).sum()


def _summed(
    work: Work, names: Sequence[str], of_task: Callable[[Task], Sequence[Tensor]]
) -> Gradient:
    total: Sequence[Tensor] | None = None
    for task in work.each_task():
        one = of_task(task)
        total = one if total is None else [a + b for a, b in zip(total, one, strict=True)]
    assert total is not None, "a block has at least one task"
    return dict(zip(names, total, strict=True))


@dataclass(frozen=True)
class Peer:
    """Another library.

    Attributes:
        gradient: what it makes of the work.
        does: (method, whether first-order), of those that are compared with it.
    """

    gradient: Callable[[Work], Gradient]
    does: tuple[tuple[Method, bool], ...]


PEERS: dict[str, Peer] = {
    "learn2learn": Peer(
        of_learn2learn,
        (
            ("maml", False),
            ("maml", True),
            ("anil", False),
            ("anil", True),
            ("meta_sgd", False),
            ("meta_sgd", True),
        ),
    ),
    "higher": Peer(of_higher, (("maml", False), ("maml", True))),
    "torchopt": Peer(of_torchopt, (("maml", False), ("imaml", False))),
}
"""Name of the package -> peer."""
