"""Any `nn.Module` as a pure function of its parameters.

Batch-norm layers use batch statistics only: running statistics would leak from task to task. Which
rows the statistics are taken of is the caller's choice, so that a query can be predicted with
(transductive) or without (non-transductive) seeing the other queries.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Params = dict[str, Tensor]

Precision: TypeAlias = Literal["float32", "bfloat16"]


class BatchStatisticsNorm(nn.Module):
    """Batch-norm on the statistics of the batch, or of its first `statistics_rows` rows.

    Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1, without running averages. With
    `statistics_rows` = S and a batch of S support rows followed by queries, every query is
    normalised by the support set alone (Bronskill et al. 2020, arXiv:2003.03284, section 3).
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.statistics_rows: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...].

        Raises:
            ValueError: the statistics would be of a single value per channel.
        """
        rows = x[: self.statistics_rows]  # [: None] is all of them
        dims = [d for d in range(x.dim()) if d != 1]
        if rows.numel() <= rows.shape[1]:
            raise ValueError(
                f"batch statistics must be of more than one value per channel, got {list(x.shape)} "
                "(rows, channels, ...); raise task.shots or lower model.blocks"
            )
        if self.statistics_rows is None and not _under_vmap():
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        # Elementary operations rather than F.batch_norm: under vmap the derivative of its backward
        # with respect to its input is wrong (torch 2.13; see also the open
        # github.com/pytorch/functorch/issues/534), by percents of MAML's meta-gradient.
        # Two sums rather than var_mean, and the mean taken off first: a tenth of a step faster on a
        # CPU, and nothing cancels.
        wide, dtype = x.float() if x.dtype == torch.bfloat16 else x, x.dtype
        mean = wide[: self.statistics_rows].mean(dims, keepdim=True)
        centred = wide - mean
        variance = centred[: self.statistics_rows].square().mean(dims, keepdim=True)
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.view(shape)
        shift = mean.new_zeros(()) if self.bias is None else self.bias.view(shape)
        return torch.addcmul(shift, centred, scale).to(dtype)


def _has_any(layer: str, names: Collection[str]) -> bool:
    return any(name.startswith(f"{layer}.") for name in names)


def _under_vmap() -> bool:
    """Whether `torch.func.vmap` maps the caller, directly or around another transformation."""
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)


_NORMS = (BatchStatisticsNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def _with_batch_statistics(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return BatchStatisticsNorm(module)
    for name, child in list(module._modules.items()):  # named_children leaves out a second use
        if child is None:
            continue
        setattr(module, name, _with_batch_statistics(child))
    return module


@dataclass(frozen=True)
class Network:
    """A module used functionally; its own tensors are only the initial values.

    Attributes:
        module: a private copy, its batch-norms replaced by `BatchStatisticsNorm`.
        precision: with ``bfloat16`` its convolutions and products, and what lies between them, are
            computed in that (torch's autocast); parameters, batch statistics, inputs and outputs,
            and their gradients, are as without.
    """

    module: nn.Module
    precision: Precision = "float32"

    @staticmethod
    def of(module: nn.Module, precision: Precision = "float32") -> Network:
        """Wrap a copy of `module`; the original is left as it was."""
        return Network(_with_batch_statistics(copy.deepcopy(module)), precision)

    @property
    def _norms(self) -> list[BatchStatisticsNorm]:
        return [m for m in self.module.modules() if isinstance(m, BatchStatisticsNorm)]

    @property
    def mixes_examples(self) -> bool:
        """Whether a prediction depends on the other rows of its batch (batch statistics)."""
        return bool(self._norms)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in the module's order."""
        return tuple(name for name, p in self.module.named_parameters() if p.requires_grad)

    def shape_of(self, name: str) -> torch.Size:
        """Shape of a parameter."""
        return self.module.get_parameter(name).shape

    @property
    def norm_names(self) -> frozenset[str]:
        """Names of the scales and shifts of normalisation layers."""
        layers = {n for n, m in self.module.named_modules() if isinstance(m, _NORMS)}
        return frozenset(name for name in self.names if name.rpartition(".")[0] in layers)

    @property
    def head(self) -> frozenset[str]:
        """Names of the parameters of the last layer that has any."""
        layer = self.names[-1].rpartition(".")[0]
        return frozenset(name for name in self.names if name.rpartition(".")[0] == layer)

    def init_params(self) -> Params:
        """Name -> float tensor, the module's initial values, trainable parameters only."""
        return {
            name: p.detach().clone()
            for name, p in self.module.named_parameters()
            if p.requires_grad
        }

    def apply(self, params: Params, x: Tensor) -> Tensor:
        """Run the module with `params` in place of its own: [N, *input_shape] -> [N, ...]."""
        out: Tensor
        if self.precision == "float32":
            out = torch.func.functional_call(self.module, params, (x,))
            return out
        # Without its cache: that would keep one task's weights for another.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            out = torch.func.functional_call(self.module, params, (x,))
        return out.to(x.dtype)

    def cut_before(self, names: Collection[str]) -> tuple[Network, Network] | None:
        """The layers before the first one that has any of the parameters, and the others.

        Args:
            names: of parameters.

        Returns: two networks that are this one, one after the other, and whose parameters have the
            same names; None: it is no sequence of layers, or there is nothing to learn before.
        """
        if not isinstance(self.module, nn.Sequential):
            return None
        layers = list(self.module._modules)  # named_children leaves out a second use
        first = next((i for i, n in enumerate(layers) if _has_any(n, names)), len(layers))
        before, after = (
            dataclasses.replace(self, module=part)
            for part in (self.module[:first], self.module[first:])
        )
        is_cut = set(before.names) | set(after.names) == set(self.names)  # not if layers share any
        return (before, after) if before.names and after.names and is_cut else None

    def to(self, device: str, *, training: bool) -> Network:
        """A copy on `device`, in training or evaluation mode (which only dropout tells apart)."""
        module = copy.deepcopy(self.module).to(device).train(training)
        return dataclasses.replace(self, module=module)

    @contextlib.contextmanager
    def statistics_of_first(self, rows: int) -> Iterator[None]:
        """Within the context, batch statistics are those of the first `rows` rows."""
        try:
            for norm in self._norms:
                norm.statistics_rows = rows
            yield
        finally:
            for norm in self._norms:
                norm.statistics_rows = None
