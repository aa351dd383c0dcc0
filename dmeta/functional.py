"""The mathematics for a training loop of one's own: methods and meta-gradients as functions.

Knows no run, no Ray and no settings files. `dmeta.MetaLearner` is the same as an `nn.Module`.

Letters: T tasks, S support examples, Q query examples, W ways.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import Algorithm, embeds, kinds
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.compiled import BlockProgram, block_program
from dmeta.bilevel.plans import EagerPlan
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Kind, Loss, Params, Stage, Task
from dmeta.metrics import default_metric
from dmeta.metrics.metric import scores
from dmeta.models.network import Network
from dmeta.options import NamedOptions, checked_options
from dmeta.runtime.messages import Block
from dmeta.tasks.tensors import GivenTasks, kind_of, stacked_tasks, ways_of
from dmeta.training.work.episodes import task_seeds
from dmeta.training.work.losses import LOSS_AUTO, LOSSES, loss_by_target
from dmeta.typed_values import AtLeastTwo, typed

Reduction: TypeAlias = Literal["mean", "sum"]
Method: TypeAlias = str | Callable[..., Algorithm]
"""A registered name, or your own factory: called with ``network=, loss=`` and its options."""


@dataclass(frozen=True, repr=False)
class MetaReport:
    """What a meta-gradient is of.

    Attributes:
        losses: [T] query loss of each task after adaptation.
        metrics: name -> [T]: of the query set, the default metric of such tasks (`dmeta.metrics`);
            and what the estimator reports of itself, such as the ``residual`` of ``implicit``.
        predictions: T tensors [Q, ...]: query predictions after adaptation.
    """

    losses: Tensor
    metrics: Mapping[str, Tensor]
    predictions: Sequence[Tensor]

    @property
    def loss(self) -> Tensor:
        """[] mean query loss of the tasks."""
        return self.losses.mean()

    def __repr__(self) -> str:
        means = {"loss": self.loss, **{name: m.mean() for name, m in self.metrics.items()}}
        shown = ", ".join(f"{name}={float(mean):.4g}" for name, mean in means.items())
        return f"MetaReport({len(self.losses)} tasks, {shown})"


def make_algorithm(
    algorithm: Method,
    network: nn.Module | Network,
    *,
    loss: str | Loss = LOSS_AUTO,
    example: Tensor | None = None,
    num_base_classes: int | Sequence[int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Algorithm:
    """A method on a network; `init_meta_params` gives the meta-parameters to begin with.

    Args:
        algorithm: a name in `dmeta.ALGORITHMS`, or your own factory.
        network: any module, of which a copy is used; an embedding, without output layer, for a
            method that says so (``embeds``), because it makes its output itself, as protonet does.
        loss: of support and query set: (prediction, target) -> scalar mean, or a name;
            ``auto``: cross-entropy for labels of a whole type, else the mean squared error.
        example: [N, *input_shape] of at least two inputs, to look at what the network does in a
            forward pass. Needed by ``leo``, and where a method asks which layer is last (``anil``,
            ``body_only``) and the network is no plain `nn.Sequential`.
        num_base_classes: all classes of the training data, for a method that is trained on
            mini-batches (``baseline``...), each a task whose support set is its query set, too;
            several numbers: those of several data sets, whose labels follow each other.
        seed: of what a method draws for its initial meta-parameters.
        options: the method's own, such as ``inner_lr=0.1`` and ``inner_steps=5``.

    Raises:
        ValueError: an unknown or impossible option, or the network does not fit the method.
    """
    make = ALGORITHMS[algorithm].make if isinstance(algorithm, str) else algorithm
    name = algorithm if isinstance(algorithm, str) else getattr(make, "__name__", "own")
    if isinstance(network, nn.Module):
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        network = Network.of(network).to(str(device), training=True)
    if not (embeds(make) or network.names):
        raise nothing_to_learn()
    if example is not None and network.seen is None:
        network = network.traced(example)
    checked = checked_options(make, NamedOptions(name, options), "algorithm")
    taken = inspect.signature(make).parameters
    if "init_seed" in taken:
        checked["init_seed"] = seed
    if "input_shape" in taken:
        if example is None:
            raise ValueError(
                f"algorithm={name} must know the shape of its inputs, got no example; give "
                "example=, a tensor of two inputs or more"
            )
        checked["input_shape"] = tuple(example.shape[1:])
    if taken.keys() & {"num_base_classes", "base_class_sizes"}:
        if num_base_classes is None:
            raise ValueError(
                f"algorithm={name} must know how many classes the training data has, got no "
                "num_base_classes; give num_base_classes="
            )
        found = typed(num_base_classes, AtLeastTwo | tuple[AtLeastTwo, ...], "num_base_classes")
        sizes = (found,) if isinstance(found, int) else found
        offered = {"num_base_classes": sum(sizes), "base_class_sizes": sizes}
        checked |= {key: value for key, value in offered.items() if key in taken}
    return make(network=network, loss=_loss_of(loss), **checked)


def nothing_to_learn() -> ValueError:
    """The refusal of a module without trainable parameters."""
    return ValueError(
        "the module must have a parameter to learn, got none that requires gradients; call "
        "requires_grad_(True) on those that are to be learned"
    )


def meta_gradient(
    algorithm: Method | Algorithm,
    meta_params: Params,
    tasks: GivenTasks,
    *,
    gradient: str | Estimator | None = None,
    plan: EagerPlan = "vmap",
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    step: int = 0,
    seed: int = 0,
    ways: int | None = None,
    network: nn.Module | Network | None = None,
    loss: str | Loss | None = None,
    **options: Any,
) -> tuple[dict[str, Tensor], MetaReport]:
    """The meta-gradient of some tasks: the numbers of a run's block.

    Args:
        algorithm: a method that is ready (`make_algorithm`), or a name or factory with `network`
            and options, from which it is made at every call.
        meta_params: name -> float tensor; left as they are.
        tasks: T tasks: (support_x [T, S, ...], support_y, query_x [T, Q, ...], query_y), tensors or
            arrays; or a sequence of tasks, also of different sizes. Labels are whole numbers
            0..W-1, values are floats.
        gradient: a name in `dmeta.GRADIENTS`, or an estimator; None: the one that belongs to a
            registered method (``displacement`` for ``reptile``), ``exact`` for any other.
        plan: how the tasks are computed: all at once (``vmap``) or one after the other (``loop``).
        reduction: ``mean`` or ``sum`` over the T tasks.
        chunk_size: most tasks at once under ``vmap``; None: all.
        step: outer steps taken so far, for what changes with them (MAML++) and for random numbers.
        seed: of random numbers (dropout, LEO).
        ways: W; None: the highest label and 1.
        network: see `make_algorithm`.
        loss: see `make_algorithm`.
        options: see `make_algorithm`.

    Returns: name -> gradient, with the keys and shapes of `meta_params`; and the report.

    Raises:
        ValueError: the method, its options and the tasks do not fit; the message says why.
    """
    if not meta_params:
        raise ValueError("meta_params must have at least one tensor, got none; give some")
    groups = stacked_tasks(tasks, next(iter(meta_params.values())))
    estimator = estimator_of(algorithm, gradient)
    ready = _made(algorithm, network, loss, example_of(groups[0]), seed, options)
    return computed(
        block_program(plan, estimator, ready, chunk_size),
        ready,
        meta_params,
        groups,
        step=step,
        seed=seed,
        ways=ways,
        reduction=reduction,
    )


def _made(
    algorithm: Any,
    network: nn.Module | Network | None,
    loss: str | Loss | None,
    example: Tensor,
    seed: int,
    options: Mapping[str, Any],
) -> Algorithm:
    """The algorithm, if it is ready, or the one that is named, made of the network and the loss."""
    if isinstance(algorithm, str) or not hasattr(algorithm, "adapt"):
        if network is None:
            raise ValueError(
                f"network must be given with algorithm={algorithm!r}, got none; give a module"
            )
        loss = loss or LOSS_AUTO
        return make_algorithm(algorithm, network, loss=loss, example=example, seed=seed, **options)
    if network is not None or loss is not None or options:
        raise ValueError(
            "network, loss and options must not be given with an algorithm that is ready, got "
            f"{', '.join(options) or 'network or loss'}; make it with them"
        )
    return cast(Algorithm, algorithm)


def estimator_of(algorithm: Any, gradient: str | Estimator | None) -> Estimator:
    """The estimator that is named, or the one that belongs to a method.

    Raises:
        ValueError: there is none of that name.
    """
    if gradient is None:
        gradient = ALGORITHMS[algorithm].gradient if isinstance(algorithm, str) else "exact"
    return ESTIMATORS[gradient].make() if isinstance(gradient, str) else gradient


def example_of(tasks: Task) -> Tensor:
    """A few inputs of the first of T stacked tasks, to trace a network with."""
    return torch.cat([tasks.support.x[0], tasks.query.x[0]])[:_TRACED_ROWS]


_TRACED_ROWS = 4


def computed(
    program: BlockProgram,
    algorithm: Algorithm,
    meta_params: Params,
    groups: Sequence[Task],
    *,
    step: int,
    seed: int,
    ways: int | None,
    reduction: Reduction,
) -> tuple[dict[str, Tensor], MetaReport]:
    """`meta_gradient` by a program that is made already.

    Args:
        program: computes a block.
        algorithm: of the program.
        meta_params: name -> float tensor.
        groups: stacked tasks.
        step: outer step.
        seed: of random numbers.
        ways: W, or None.
        reduction: over all tasks.

    Raises:
        ValueError: the method cannot learn such tasks.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, got {reduction!r}; change it")
    kind = kind_of(groups[0].query.y)
    if kind not in kinds(algorithm):
        raise ValueError(
            f"targets for {type(algorithm).__name__} must be of {' or '.join(kinds(algorithm))}, "
            f"got {kind} (targets of type {groups[0].query.y.dtype}); change them, or the algorithm"
        )
    sizes = [len(tasks.support.x) for tasks in groups]
    seeds = torch.split(task_seeds(seed, Block("train", step, 0, 0, sum(sizes))), sizes)
    total: dict[str, Tensor] = {}
    reports: list[MetaReport] = []
    for tasks, own_seeds in zip(groups, seeds, strict=True):
        num_ways = ways_of(tasks.support.y, tasks.query.y) if ways is None else ways
        stage = Stage(training=True, ways=num_ways, step=step, seed=seed)
        block = program(meta_params, tasks, stage, own_seeds)
        total = {n: total[n] + g if total else g for n, g in block.gradients.items()}
        metric = default_metric(kind)
        columns = _in_columns(kind, block.predictions, tasks.query.y)
        metrics = {metric.name: scores(metric, *columns, num_ways), **block.notes}
        reports.append(MetaReport(block.losses, metrics, list(block.predictions)))
    if reduction == "mean":
        total = {name: g / sum(sizes) for name, g in total.items()}
    return total, _joined(reports)


def _in_columns(kind: Kind, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Values [T, Q, ...] as [T, Q, D]."""
    if kind == "classification":
        return prediction, target
    head = prediction.shape[:2]
    return prediction.reshape(*head, -1), target.reshape(*head, -1)


def _joined(reports: Sequence[MetaReport]) -> MetaReport:
    return MetaReport(
        torch.cat([each.losses for each in reports]),
        {name: torch.cat([r.metrics[name] for r in reports]) for name in reports[0].metrics},
        [prediction for each in reports for prediction in each.predictions],
    )


def _loss_of(loss: str | Loss) -> Loss:
    if not isinstance(loss, str):
        return loss
    if loss == LOSS_AUTO:
        return loss_by_target
    if loss not in LOSSES:
        raise ValueError(f"loss must be {LOSS_AUTO} or one of {', '.join(LOSSES)}, got {loss!r}")
    return LOSSES[loss].loss
