"""A meta-learned method as an `nn.Module`, for training loops with any torch optimiser.

Letters: T tasks, S support examples, Q query examples, N examples to predict, W ways.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from dmeta.algorithms.algorithm import constants, kinds, with_network
from dmeta.algorithms.prediction import Predictor
from dmeta.bilevel.compiled import BlockProgram, block_program
from dmeta.bilevel.plans import PlanName
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.types import Loss, Stage, Task
from dmeta.functional import (
    MetaReport,
    Method,
    Reduction,
    computed,
    estimator_of,
    example_of,
    make_algorithm,
    nothing_to_learn,
)
from dmeta.models.network import Network
from dmeta.tasks.tensors import given_examples, kind_of, stacked_task, ways_of
from dmeta.training.work.losses import LOSS_AUTO


class MetaLearner(nn.Module):
    """What a method meta-learns, as parameters; its meta-gradients, and adaptation to a task.

    For example::

        learner = dmeta.MetaLearner(network, "maml", inner_lr=0.4, inner_steps=1)
        optimizer = torch.optim.Adam(learner.parameters())
        for support_x, support_y, query_x, query_y in batches:
            optimizer.zero_grad()
            report = learner.backward(support_x, support_y, query_x, query_y)
            optimizer.step()
        prediction = learner.adapt(support_x, support_y).predict(query_x)

    The network's weights are the module's own parameters: training the learner trains the module
    (`copy.deepcopy` it first to keep it as it is). Batch-norm takes the statistics of its batch.
    Training or evaluation mode (dropout) follows from what is called, not from `train()`.

    Attributes:
        params: holds the meta-parameters: ``params.<name>`` is the parameter of a run's checkpoint
            that is called ``<name>``.
        frozen: holds the network's buffers and frozen weights.
    """

    def __init__(
        self,
        module: nn.Module,
        algorithm: Method = "maml",
        *,
        loss: str | Loss = LOSS_AUTO,
        gradient: str | Estimator | None = None,
        plan: PlanName = "vmap",
        chunk_size: int | None = None,
        example: Tensor | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Makes the method on the module.

        Args:
            module: the network; an embedding, without output layer, for a method that makes its
                output itself, as ``protonet`` does (``dmeta.algorithms.algorithm.embeds``).
            algorithm: a name in `dmeta.ALGORITHMS`, or your own factory.
            loss: see `dmeta.make_algorithm`.
            gradient: a name in `dmeta.GRADIENTS`, or an estimator; None: the one that belongs to
                the method.
            plan: how the tasks of a batch are computed; ``vmap``, ``loop`` (any module), or
                ``compiled`` (takes long at the first batch of each size).
            chunk_size: most tasks at once; None: all.
            example: see `dmeta.make_algorithm`.
            seed: of initial meta-parameters that a method draws, and of random numbers.
            options: the method's own, such as ``inner_lr=0.1`` and ``inner_steps=5``.

        Raises:
            ValueError: an unknown or impossible option, or the module does not fit the method.
        """
        super().__init__()
        made = make_algorithm(algorithm, module, loss=loss, example=example, seed=seed, **options)
        self._algorithm = made
        self._estimator = estimator_of(algorithm, gradient)
        self._plan, self._chunk_size, self._seed = plan, chunk_size, seed
        self._num_batches = 0
        self._program: BlockProgram | None = None
        meta_params = made.init_meta_params()
        if not meta_params:
            raise nothing_to_learn()
        self._names = tuple(meta_params)
        self.params = nn.Module()
        own, not_learned = dict(module.named_parameters()), constants(made)
        for name, value in meta_params.items():
            parameter = own.get(name)
            if parameter is None or parameter.shape != value.shape or name in not_learned:
                parameter = nn.Parameter(value, requires_grad=name not in not_learned)
            layer, last = _layer(self.params, name)
            layer.register_parameter(last, parameter)
        self.frozen = nn.Module()
        self._set_network(made.network)

    @property
    def meta_params(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, under the names that a run and `dmeta.meta_gradient` have for them."""
        found = dict(self.params.named_parameters())
        return {name: found[name] for name in self._names}

    def backward(
        self,
        support_x: Any,
        support_y: Any,
        query_x: Any,
        query_y: Any,
        *,
        reduction: Reduction = "mean",
        step: int | None = None,
        ways: int | None = None,
        batched: bool | None = None,
    ) -> MetaReport:
        """Add the meta-gradient of one task, or of T, to the `.grad` of the parameters.

        Args:
            support_x: [S, *input_shape] or [T, S, *input_shape].
            support_y: labels [S] of a whole type, 0..W-1, or values [S, D]; or with T in front.
            query_x: [Q, *input_shape], likewise.
            query_y: as `support_y`.
            reduction: ``mean`` or ``sum`` over the T tasks.
            step: outer steps taken so far, for what changes with them (MAML++, a random number of
                inner steps); None: how often this method was called.
            ways: W; None: the highest label and 1.
            batched: whether there is a T in front; None: as the targets' shape says.

        Returns: the query losses and metrics.

        Raises:
            ValueError: the tasks do not fit each other or the method.
        """
        params = {name: p.detach() for name, p in self.meta_params.items()}
        given = support_x, support_y, query_x, query_y
        tasks = stacked_task(given, next(iter(params.values())), batched=batched)
        gradients, report = computed(
            self._block_program(tasks),
            self._algorithm,
            params,
            [tasks],
            step=self._num_batches if step is None else step,
            seed=self._seed,
            ways=ways,
            reduction=reduction,
        )
        self._num_batches += 1
        for name, p in self.meta_params.items():
            if p.requires_grad:
                _accumulate(p, gradients[name])
        return report

    def adapt(
        self, x: Any, y: Any, *, inner_steps: int | None = None, ways: int | None = None
    ) -> Predictor:
        """Learn one task with the present meta-parameters, which are left as they are.

        Args:
            x: [S, *input_shape].
            y: labels [S] of a whole type, 0..W-1, or values [S, D].
            inner_steps: instead of the method's ``eval_inner_steps``.
            ways: W; None: the highest label and 1.

        Returns: what `predict` is called on; later steps of an optimiser do not change it.

        Raises:
            ValueError: the examples do not fit the method.
        """
        params = {name: p.detach().clone() for name, p in self.meta_params.items()}
        support = given_examples(x, y, next(iter(params.values())))
        if kind_of(support.y) not in kinds(self._algorithm):
            raise ValueError(
                f"y must be of {' or '.join(kinds(self._algorithm))} for this method, got targets "
                f"of type {support.y.dtype}; change them, or the method"
            )
        network = self._algorithm.network.to(str(support.x.device), training=False)
        algorithm = with_network(self._algorithm, network)
        stage = Stage(
            training=False,
            ways=ways_of(support.y) if ways is None else ways,
            inner_steps=inner_steps,
        )
        with torch.no_grad():
            adapted = algorithm.adapt(params, support, recording(lambda _: None), stage)
        return Predictor(algorithm, adapted, support.x)

    def get_extra_state(self) -> Tensor:
        """How often `backward` was called: random numbers follow from it."""
        return torch.tensor(self._num_batches)

    def set_extra_state(self, state: Any) -> None:
        """See `get_extra_state`."""
        self._num_batches = int(state)

    def _block_program(self, tasks: Task) -> BlockProgram:
        if self._algorithm.network.seen is None:
            self._set_network(self._algorithm.network.traced(example_of(tasks)))
        if self._program is None:
            self._program = block_program(
                self._plan, self._estimator, self._algorithm, self._chunk_size
            )
        return self._program

    def _set_network(self, network: Network) -> None:
        """Take a network, whose constants are part of the state."""
        self._algorithm = with_network(self._algorithm, network)
        self._program = None
        frozen = {n: p.data for n, p in network.module.named_parameters() if not p.requires_grad}
        for name, tensor in {**frozen, **dict(network.module.named_buffers())}.items():
            layer, last = _layer(self.frozen, name)
            layer.register_buffer(last, tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Whatever `to`, `double`, `cuda` and the like do, for the network's constants too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        network = self._algorithm.network
        module = copy.deepcopy(network.module)._apply(fn)  # type: ignore[no-untyped-call]
        self._set_network(dataclasses.replace(network, module=module))
        return self

    def __getstate__(self) -> Mapping[str, Any]:
        """Without the program, which is made from the rest."""
        return {**self.__dict__, "_program": None}


def _layer(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module under `root` that a dotted name ends in, made if need be, and the last part."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, last


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient.detach().to(parameter.dtype)
    else:
        parameter.grad.add_(gradient)
