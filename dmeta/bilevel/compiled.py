"""The execution plan ``compiled``: the whole gradient of a block as one program.

The block's gradient under ``vmap`` is traced once, operation by operation, with every derivative
already taken; `torch.compile` turns that list of operations into code. Where tasks are small, most
of the time of ``vmap`` goes into calling operations one by one, and of that nothing is left.

torch keeps compiled code on disk (under ``TORCHINDUCTOR_CACHE_DIR``, else the temporary folder), so
that it is compiled once for all runs and all workers of a node.

Letters: T tasks of a chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from dmeta.bilevel.plans import (
    BlockGradient,
    PlanName,
    block_gradient,
    chunks,
    for_each_task,
    gradients_of,
    joined,
    seeds_of,
    surrogates,
)
from dmeta.bilevel.surrogates import Differentiable, Estimator
from dmeta.bilevel.types import Params, Stage, Task

BlockProgram: TypeAlias = Callable[[Params, Task, Stage, Tensor | None], BlockGradient]
"""(meta-parameters, T tasks, stage, their seeds) -> the sum of their meta-gradients."""


class NotCompilable(ValueError):
    """What a block computes can not be written down once for all steps; the message says why."""


def block_program(
    plan: PlanName,
    estimator: Estimator,
    algorithm: Differentiable,
    chunk_size: int | None = None,
) -> BlockProgram:
    """`dmeta.bilevel.plans.block_gradient` of any plan, to be called for many blocks.

    Args:
        plan: how the tasks are computed.
        estimator: what is differentiated.
        algorithm: adapt, predict and loss.
        chunk_size: most tasks at once where they are not computed one by one; None: all.
    """
    if plan == "compiled":
        return CompiledBlocks(estimator, algorithm, chunk_size)

    def compute(
        meta_params: Params, tasks: Task, stage: Stage, task_seeds: Tensor | None
    ) -> BlockGradient:
        return block_gradient(
            plan, estimator, algorithm, meta_params, tasks, stage, task_seeds, chunk_size
        )

    return compute


def _compile(graph: GraphModule) -> Callable[..., list[Tensor]]:
    compiled: Callable[..., list[Tensor]] = torch.compile(graph, fullgraph=True, dynamic=False)
    return compiled


class CompiledBlocks:
    """A `BlockProgram` that compiles itself when it is first called.

    All chunks are computed by one program: one that is smaller than the first is filled up with
    copies of its last task, which count nothing.

    Args:
        estimator: what is differentiated.
        algorithm: adapt, predict and loss.
        chunk_size: most tasks at once; None: as many as the first block has.
        compile_graph: turns a list of operations into a function of their inputs.
    """

    def __init__(
        self,
        estimator: Estimator,
        algorithm: Differentiable,
        chunk_size: int | None = None,
        compile_graph: Callable[[GraphModule], Callable[..., list[Tensor]]] = _compile,
    ) -> None:
        self._estimator, self._algorithm = estimator, algorithm
        self._chunk_size, self._compile = chunk_size, compile_graph
        self._programs: dict[Any, _Program] = {}

    def __call__(
        self, meta_params: Params, tasks: Task, stage: Stage, task_seeds: Tensor | None
    ) -> BlockGradient:
        """The sum of the T tasks' meta-gradients.

        Raises:
            NotCompilable: the method looks at the outer step or draws random numbers of its own,
                the model looks at the values of its tensors, or there is no compiler.
        """
        size = self._chunk_size or len(tasks.support.x)
        self._chunk_size = size
        parts = [
            self._chunk(meta_params, *part, stage)
            for part in chunks((tasks, seeds_of(tasks, task_seeds)), size)
        ]
        gradients = {n: torch.stack([p.gradients[n] for p in parts]).sum(0) for n in meta_params}
        return BlockGradient(gradients, *joined([part[1:] for part in parts]))

    def num_operations(
        self, meta_params: Params, tasks: Task, stage: Stage, task_seeds: Tensor | None
    ) -> int:
        """How many operations the program has; it is written down, not yet compiled.

        Raises:
            NotCompilable: see `__call__`.
        """
        size = self._chunk_size or len(tasks.support.x)
        tasks, seeds = chunks((tasks, seeds_of(tasks, task_seeds)), size)[0]
        return len(
            self._program(*_packed(meta_params, tasks, seeds, size), stage).graph.graph.nodes
        )

    def _chunk(
        self, meta_params: Params, tasks: Task, seeds: Tensor, stage: Stage
    ) -> BlockGradient:
        assert self._chunk_size is not None
        inputs, packing = _packed(meta_params, tasks, seeds, self._chunk_size)
        program = self._program(inputs, packing, stage)
        try:
            with torch.no_grad():
                outputs = program.run(*inputs)
        except BackendCompilerFailed as error:
            cause = error.inner_exception
            reason = f"{type(cause).__name__}: {cause}".strip().split("\n")[0]
            raise NotCompilable(_refusal(f"a compiler that works, got: {reason}")) from error
        gradients, *reports = pytree.tree_unflatten(outputs, program.packing)
        rows = slice(len(seeds))
        return BlockGradient(gradients, *pytree.tree_map(lambda t: t[rows], tuple(reports)))

    def _program(self, inputs: list[Tensor], packing: pytree.TreeSpec, stage: Stage) -> _Program:
        any_step = dataclasses.replace(stage, step=0, seed=0, task_seed=0)
        key = (packing, any_step, *((t.shape, t.dtype, t.device) for t in inputs))
        if key not in self._programs:
            graph, outputs = _traced(self._estimator, self._algorithm, stage, inputs, packing)
            self._programs[key] = _Program(graph, outputs, self._compile(graph))
        return self._programs[key]


@dataclass(frozen=True)
class _Program:
    """A chunk's gradient as a list of operations.

    Attributes:
        graph: the operations.
        packing: of their outputs: (gradients, losses, predictions, notes).
        run: the same, compiled when it is first called.
    """

    graph: GraphModule
    packing: pytree.TreeSpec
    run: Callable[..., list[Tensor]]


def _packed(
    meta_params: Params, tasks: Task, seeds: Tensor, size: int
) -> tuple[list[Tensor], pytree.TreeSpec]:
    """(meta_params, tasks, seeds [T], counts [T]), T = `size`: what is filled up counts 0."""
    num_tasks = len(seeds)
    tasks, seeds = pytree.tree_map(lambda t: _filled_up(t, size - num_tasks), (tasks, seeds))
    counts = torch.ones(size, device=tasks.support.x.device)
    counts[num_tasks:] = 0
    inputs, packing = pytree.tree_flatten((dict(meta_params), tasks, seeds, counts))
    return [tensor.detach() for tensor in inputs], packing


def _traced(
    estimator: Estimator,
    algorithm: Differentiable,
    stage: Stage,
    inputs: list[Tensor],
    packing: pytree.TreeSpec,
) -> tuple[GraphModule, pytree.TreeSpec]:
    """Compute a chunk once and note every operation; also how the outputs are packed.

    Raises:
        NotCompilable: see `CompiledBlocks`.
    """
    packings: list[pytree.TreeSpec] = []
    timeless = _Timeless.of(stage)

    def compute(*flat: Tensor) -> list[Tensor]:
        meta_params, tasks, seeds, counts = pytree.tree_unflatten(list(flat), packing)
        leaves = {name: p.detach().requires_grad_(True) for name, p in meta_params.items()}
        surrogate = surrogates(estimator, algorithm, leaves, timeless)
        with torch.enable_grad():
            scalars, report = for_each_task("vmap", surrogate, tasks, seeds)
            gradients = gradients_of((scalars * counts.to(scalars)).sum(), leaves)
        outputs, packed = pytree.tree_flatten((gradients, *report))
        packings.append(packed)
        return outputs

    try:
        graph = make_fx(compute)(*inputs)
    except NotCompilable:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        wanted = f"a method and a model whose operations do not depend on values ({reason})"
        raise NotCompilable(_refusal(wanted)) from error
    if timeless.looked:
        raise NotCompilable(_refusal_to_look(timeless.looked[0]))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, packings[0]


@dataclass(frozen=True, eq=False, repr=False)
class _Timeless(Stage):
    """The stage of all steps: a method that reads the outer step or its seed is refused.

    Already reading is refused, not only what is done with the value: nobody can list everything
    that turns a value into a decision (``==``, ``in``, ``match``, ``is None``, a dictionary, ...).

    Attributes:
        looked: what was read, in case the method catches the exception.
    """

    step: int = field(init=False)
    seed: int = field(init=False)
    looked: list[str] = field(default_factory=list)

    @staticmethod
    def of(stage: Stage) -> _Timeless:
        """Everything else as it is."""
        names = [each.name for each in dataclasses.fields(stage) if each.name not in _UNKNOWN]
        return _Timeless(**{name: getattr(stage, name) for name in names})

    def __getattribute__(self, name: str) -> Any:
        if name not in _UNKNOWN:
            return super().__getattribute__(name)
        self.looked.append(_UNKNOWN[name])
        raise NotCompilable(_refusal_to_look(_UNKNOWN[name]))

    def _all_fields(self, *_: object) -> Any:
        return self.step

    __eq__ = __hash__ = __repr__ = _all_fields


_UNKNOWN = {"step": "the outer step", "seed": "the step's seed"}


def _refusal_to_look(what: str) -> str:
    return _refusal(f"a method that does not look at {what}")


def _refusal(wanted: str) -> str:
    return f"compute.plan=compiled must have {wanted}; choose compute.plan=vmap or auto"


def _filled_up(rows: Tensor, missing: int) -> Tensor:
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
