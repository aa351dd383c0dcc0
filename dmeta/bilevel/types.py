"""The data types that all rooms share.

Letters: T tasks, S support examples, Q query examples, W ways (classes of one task).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

Params: TypeAlias = Mapping[str, Tensor]
"""Name -> tensor. Never changed in place."""

Adapted: TypeAlias = Any
"""What `predict` reads: a pytree of tensors whose shape is the method's own."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(prediction [N, ...], target [N, ...]) -> scalar, the mean over the N examples."""

Kind: TypeAlias = Literal["classification", "regression"]


class Examples(NamedTuple):
    """Inputs and targets of one task, or of T tasks stacked in front.

    Attributes:
        x: [N, *input_shape] float32, or int64 (token ids).
        y: [N] int64 labels in 0..W-1 (classification) or [N, *output_shape] float32 (regression).
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One few-shot task: learn from the support set, be judged on the query set."""

    support: Examples
    query: Examples


class Outcome(NamedTuple):
    """What `adapt` may return in training if the meta-loss is more than one query loss.

    The meta-loss is sum_i weights[i] * query loss of states[i], plus the penalty.

    Attributes:
        states: adapted states; the last is the one that predicts.
        weights: of their query losses.
        penalty: [] added to the meta-loss; None: nothing.
    """

    states: tuple[Adapted, ...]
    weights: tuple[float, ...]
    penalty: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """When a task is learnt: what a method may take into account besides the task.

    Attributes:
        training: whether in meta-training (else at evaluation or in use).
        ways: W, the classes of the task; 1 for regression.
        step: outer steps taken so far in meta-training; 0 at evaluation.
        inner_steps: inner steps to take instead of the method's own; None: the method's own.
        seed: of whatever a method draws once for all tasks of an outer step.
        task_seed: of whatever it draws for this task alone (`dmeta.randomness`): at least 0, or
            a tensor [] int64 on the CPU.
    """

    training: bool
    ways: int
    step: int = 0
    inner_steps: int | None = None
    seed: int = 0
    task_seed: int | Tensor = 0
