"""Any `nn.Module` as a pure function of its parameters.

Batch-norm layers use batch statistics only: running statistics would leak from task to task. Which
rows the statistics are taken of is the caller's choice, so that a query can be predicted with
(transductive) or without (non-transductive) seeing the other queries. Random layers draw numbers
that are functions of the task's seed and the place in its computation (`dmeta.randomness`).

A `Network` may be used by any number of threads at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dmeta import randomness
from dmeta.models.attention import MATH_KERNEL
from dmeta.models.embeddings import check_ids
from dmeta.models.norms import (
    NORMS,
    BatchNormKind,
    Moments,
    Statistics,
    without_running_statistics,
)
from dmeta.models.overrides import TaskFunctions, under_vmap
from dmeta.models.thread_copies import ThreadCopies, batch_norms_of, placed_on, structure_of
from dmeta.models.tracing import Trace, of_layer, owner, trace

Params = dict[str, Tensor]

LayerPrecision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Network:
    """A module used functionally; its own tensors are only the initial values.

    Attributes:
        module: a private copy without running statistics (see `dmeta.models.norms`).
        precision: with ``bfloat16`` its convolutions and products, and what lies between them, are
            computed in that (torch's autocast); parameters, batch statistics, inputs and outputs,
            and their gradients, are as without.
        seen: what a forward pass of it does; None: not known, everything is assumed.
        part: tells the random numbers of this part of a network from those of the others.
        queries_apart: whether queries are normalised by the support set in training, too (and by
            themselves, with `TaskNorm`), so that they never see each other.
        statistics_rows: batch statistics are those of the first so many rows; None: of all.
        moments: batch statistics instead of the batch's, one for each application of a layer.
        recorded: to which each call of `apply` adds the batch statistics that it took; None: to
            nothing.
    """

    module: nn.Module
    precision: LayerPrecision = "float32"
    seen: Trace | None = None
    part: str = ""
    queries_apart: bool = False
    statistics_rows: int | None = None
    moments: tuple[Moments, ...] | None = None
    recorded: list[tuple[Moments, ...]] | None = field(default=None, compare=False, repr=False)
    _copies: ThreadCopies | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Threads share the copies of the same module."""
        if self._copies is None or self._copies.module is not self.module:
            object.__setattr__(self, "_copies", ThreadCopies(self.module))

    @staticmethod
    def of(
        module: nn.Module,
        precision: LayerPrecision = "float32",
        batch_norm: BatchNormKind = "transductive",
    ) -> Network:
        """Wrap a copy of `module`; the original is left as it was.

        Args:
            module: any.
            precision: see `Network`.
            batch_norm: what its batch-norms become.

        Raises:
            ValueError: the module cannot be copied, or its parameters have no values yet.
        """
        lazy = [n for n, p in module.named_parameters() if nn.parameter.is_lazy(p)]
        if lazy:
            raise ValueError(
                f"the model must have all its parameters, got {', '.join(lazy)} of lazy layers; "
                "call the model once on an example first"
            )
        try:
            own = copy.deepcopy(module)
        except RuntimeError as error:
            computed = ", ".join(_computed_by_hooks(module))
            got = f"{computed}, which a hook computes" if computed else str(error)
            raise ValueError(
                f"the model must be a module that copy.deepcopy can copy, got {got}; use "
                "torch.nn.utils.parametrizations instead of torch.nn.utils.weight_norm and "
                "spectral_norm, or make such parameters permanent with "
                "torch.nn.utils.remove_weight_norm or prune.remove"
            ) from error
        own = without_running_statistics(own, kind=batch_norm)
        return Network(own, precision, queries_apart=batch_norm != "transductive")

    def traced(self, example: Tensor) -> Network:
        """The same network, having seen what a forward pass does.

        Args:
            example: [N, *input_shape], as the network will see them; N at least 2.

        Raises:
            ValueError: it changes buffers or frozen parameters, draws from another generator than
                torch's, or uses a parameter in another way than by its name.
        """
        whole = copy.deepcopy(self.module)  # its buffers may change
        module = structure_of(whole)

        def run(params: Params) -> Tensor:
            out: Tensor = torch.func.functional_call(module, params, (example,))
            return out

        def run_own(training: bool) -> Tensor:
            out: Tensor = whole.train(training)(example)
            return out

        return dataclasses.replace(self, seen=trace(module, self.init_params(), run, run_own))

    @property
    def mixes_examples(self) -> bool:
        """Whether a prediction depends on the other rows of its batch (batch statistics)."""
        return bool(batch_norms_of(self.module))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in the module's order."""
        return tuple(name for name, p in self.module.named_parameters() if p.requires_grad)

    def shape_of(self, name: str) -> torch.Size:
        """Shape of a parameter."""
        return self.module.get_parameter(name).shape

    @property
    def norm_names(self) -> frozenset[str]:
        """Names of the scales and shifts of normalisation layers."""
        layers = {n for n, m in self.module.named_modules() if isinstance(m, NORMS)}
        return frozenset(name for name in self.names if name.rpartition(".")[0] in layers)

    @property
    def head(self) -> frozenset[str]:
        """Names of the parameters of the layer that is applied last.

        Raises:
            ValueError: it is not clear which layer that is.
        """
        head = self.seen.head if self.seen is not None else self._last_of_sequence()
        if head is None:
            raise ValueError(
                "algorithm.adapt=head and body must have a model with one last layer, whose "
                "parameters no other layer uses and around which no branch leads, got one where "
                "that is not clear; set algorithm.adapt to patterns of names, such as [fc.*]: "
                f"{', '.join(self.names)}"
            )
        return head

    def _last_of_sequence(self) -> frozenset[str] | None:
        if next(self.module.children(), None) is None:
            return frozenset(self.names) or None
        if type(self.module) is not nn.Sequential or not self.names:
            return None
        layer = owner(self.names[-1])
        is_one = "." not in layer or all(
            type(self.module.get_submodule(layer.rsplit(".", i)[0])) is nn.Sequential
            for i in range(1, layer.count(".") + 1)
        )
        return of_layer(self.names, layer) if is_one else None

    def init_params(self) -> Params:
        """Name -> float tensor, the module's initial values, trainable parameters only."""
        return {
            name: p.detach().clone()
            for name, p in self.module.named_parameters()
            if p.requires_grad
        }

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """Run the module with `params` in place of its own: [N, *input_shape] -> [N, ...].

        Raises:
            ValueError: a parameter is missing, or an embedding lacks a token id.
        """
        if not params.keys() >= self._name_set:
            missing = ", ".join(sorted(self._name_set - params.keys()))
            raise ValueError(
                f"params must have all parameters of the network, got none for {missing}"
            )
        assert self._copies is not None
        module, batch_norms = self._copies.mine()
        taken: list[Moments] | None = None if self.recorded is None else []
        given = None if self.moments is None else iter(self.moments)
        for norm in batch_norms:
            norm.statistics = Statistics(self.statistics_rows, given, taken)
        with self._replacements(x.device), self._attention():
            try:
                out = self._computed(module, params, x)
            except IndexError:
                check_ids(module, x)
                raise
        if self.recorded is not None and taken is not None:
            self.recorded.append(tuple(taken))
        return out

    @functools.cached_property
    def _name_set(self) -> frozenset[str]:
        return frozenset(self.names)

    def _computed(self, module: nn.Module, params: Params, x: Tensor) -> Tensor:
        out: Tensor
        with self.layer_precision(x.device):
            out = torch.func.functional_call(module, params, (x,))
        if self.precision == "float32":
            return out
        return out.to(x.dtype if x.is_floating_point() else torch.float32)

    def layer_precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Within it, convolutions and products are computed as the network's are."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        # Without its cache: that would keep one task's weights for another.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def _replacements(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Torch's functions and generators, where the network uses any that are replaced."""
        if self.seen is None:
            return self._replaced(device, overridden=True, draws=True)
        if not self.seen.overridden and not self.seen.draws:
            return contextlib.nullcontext()
        return self._replaced(device, self.seen.overridden, bool(self.seen.draws))

    @contextlib.contextmanager
    def _replaced(self, device: torch.device, overridden: bool, draws: bool) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if draws and not under_vmap():  # there, torch refuses to draw (`bilevel.plans`)
                stack.enter_context(randomness.seeded_generator(self.part, device))
            if overridden:
                stack.enter_context(TaskFunctions(self.part))
            yield

    def _attention(self) -> contextlib.AbstractContextManager[None]:
        """Torch's fast kernels of attention have no second derivative."""
        in_inner_loop = torch._C._functorch.peek_interpreter_stack() is not None
        attention = self.seen is None or self.seen.attention
        return MATH_KERNEL if attention and in_inner_loop else contextlib.nullcontext()

    def cut_before(self, names: Collection[str]) -> tuple[Network, Network] | None:
        """The layers before the first one that has any of the parameters, and the others.

        Args:
            names: of parameters.

        Returns: two networks that are this one, one after the other, and whose parameters have the
            same names; None: it is no plain `nn.Sequential`, whose layers are applied in order, or
            there is nothing to learn before.
        """
        module = self.module
        # A subclass may compute something else; so may hooks, which a part would not have.
        if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
            return None
        layers = list(module._modules)  # named_children leaves out a second use
        first = next((i for i, n in enumerate(layers) if _has_any(n, names)), len(layers))
        before, after = (
            dataclasses.replace(self, module=part, part=f"{self.part}{place}/")
            for place, part in (("before", module[:first]), ("after", module[first:]))
        )
        is_cut = set(before.names) | set(after.names) == set(self.names)  # not if layers share any
        return (before, after) if before.names and after.names and is_cut else None

    def to(self, device: str, *, training: bool) -> Network:
        """A copy on `device`, in training or evaluation mode (which only random layers tell apart).

        Trainable parameters, which are given in every call, stay where they are.
        """
        module = placed_on(self.module, device).train(training)
        return dataclasses.replace(self, module=module)

    def with_statistics_of_first(self, rows: int) -> Network:
        """The same network, its batch statistics those of the first `rows` rows of a batch."""
        return dataclasses.replace(self, statistics_rows=rows)

    def recording_moments(self, recorded: list[tuple[Moments, ...]]) -> Network:
        """The same network; each call of `apply` appends its batch statistics to `recorded`."""
        return dataclasses.replace(self, recorded=recorded)

    def with_moments(self, moments: Sequence[Moments]) -> Network:
        """The same network with fixed batch statistics, as one call of `apply` recorded them."""
        return dataclasses.replace(self, moments=tuple(moments), recorded=None)


def _computed_by_hooks(module: nn.Module) -> list[str]:
    """Names of tensors that hooks compute from parameters: those cannot be copied."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, layer in module.named_modules()
        for key, value in vars(layer).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]


def _has_any(layer: str, names: Collection[str]) -> bool:
    return any(name.startswith(f"{layer}.") for name in names)
