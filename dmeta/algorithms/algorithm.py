"""The protocol of an algorithm: two pure functions of one task, and what it meta-learns.

How the meta-loss of ``predict(adapt(...))`` is differentiated is not the algorithm's business but
the estimator's (`dmeta.bilevel.estimators`), which hands it a solver.

Letters: S support examples, N examples to predict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from torch import Tensor

from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.models.network import Network


class Algorithm(Protocol):
    """A few-shot learner. Implementations are frozen dataclasses; methods are pure."""

    @property
    def network(self) -> Network:
        """The model."""
        ...

    @property
    def loss(self) -> Loss:
        """(prediction, target) -> scalar mean, on support and query alike."""
        ...

    def init_meta_params(self) -> Params:
        """What is meta-learned, at its initial values: name -> float tensor."""
        ...

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
        """Learn one task from its support set.

        Args:
            meta_params: as from `init_meta_params`.
            support: x [S, *input_shape], y [S] or [S, *output_shape].
            solve: walks the inner problem, if the method has one.
            stage: training or evaluation (their settings differ), how many classes.

        Returns: what `predict` reads; in training an `Outcome`, if the meta-loss is more than the
            query loss of one such state.
        """
        ...

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W] or values [N, *output_shape]."""
        ...


def embeds(method: Any) -> bool:
    """Whether a method (a class, factory or instance) wants an embedding for a network.

    The network is then built without its output layer, and tasks may have any number of ways. A
    class says so with ``embeds: ClassVar[bool] = True``.
    """
    return bool(getattr(getattr(method, "func", method), "embeds", False))


def kinds(method: Any) -> tuple[Kind, ...]:
    """Kinds of task that a method can learn; both, unless its class has a ClassVar ``kinds``."""
    everything: tuple[Kind, ...] = ("classification", "regression")
    return tuple(getattr(getattr(method, "func", method), "kinds", everything))


def trains_on_batches(method: Any) -> bool:
    """Whether a method is trained on mini-batches of all training classes, not on episodes.

    In training its `adapt` then gets a mini-batch as the support set (with labels among
    ``stage.ways`` classes, all those of the training split), and what it returns predicts that same
    mini-batch. At evaluation it gets few-shot tasks as every other method. A class says so with
    ``trains_on_batches: ClassVar[bool] = True``; its factory may take ``num_base_classes``, and
    ``base_class_sizes``: how many of these are of each data set, one after the other. A mini-batch
    is of one data set.
    """
    return bool(getattr(getattr(method, "func", method), "trains_on_batches", False))


def constants(algorithm: Any) -> frozenset[str]:
    """Names of meta-parameters that are part of the state but not learned.

    A method says so with a property ``constants``; without it there are none.
    """
    return frozenset(getattr(algorithm, "constants", ()))


class HasTeachers(Protocol):
    """A method some of whose constants are the weights of other runs, which a run reads for it.

    It has fields ``teachers``, their folders, and ``teachers_sha256``, of what they must hold.
    """

    @property
    def teachers(self) -> tuple[str, ...]:
        """Folders or addresses of runs; may be none."""
        ...

    def teacher_constants(self, teachers: Sequence[Params]) -> dict[str, Tensor]:
        """Values of the constants, from the meta-parameters of the teachers.

        Raises:
            ValueError: they do not fit.
        """
        ...


def has_teachers(algorithm: Any) -> TypeGuard[HasTeachers]:
    """Whether the method has teachers."""
    return bool(getattr(algorithm, "teachers", ()))


def moving_averages(algorithm: Any) -> Mapping[str, float]:
    """Names of meta-parameters that follow an average of what tasks show, and their rates.

    They are not moved by the outer optimiser but by rate * gradient, which the method makes
    (value - what the task shows), as the gradient of 1/2 |value - what the task shows|^2. A method
    says so with a property ``moving_averages``; without it there are none.
    """
    return dict(getattr(algorithm, "moving_averages", {}))


def with_network(algorithm: Any, network: Network) -> Algorithm:
    """The method on another network, or on the same one with other batch statistics."""
    replaced: Algorithm = dataclasses.replace(algorithm, network=network)
    return replaced
