"""Normalisation layers without running statistics, with the statistics of chosen examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dmeta.models.overrides import under_vmap


class Moments(NamedTuple):
    """Batch statistics of one application of a layer.

    Attributes:
        mean: [1, C, 1, ...] float32 or wider.
        variance: [1, C, 1, ...], biased.
    """

    mean: Tensor
    variance: Tensor


@dataclass
class Statistics:
    """Where the batch-norms of one call of a network take their statistics from.

    Attributes:
        rows: the first so many rows of the batch; None: all.
        given: one for each application of a layer, in order, instead of the batch's.
        recorded: where to add those that are taken of the batch; None: nowhere.
    """

    rows: int | None = None
    given: Iterator[Moments] | None = None
    recorded: list[Moments] | None = None


class BatchStatisticsNorm(nn.Module):
    """Batch-norm on the statistics of the batch, of its first rows, or on given ones.

    Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1, without running averages. With S first
    rows and a batch of S support rows followed by queries, every query is normalised by the support
    set alone (Bronskill et al. 2020, arXiv:2003.03284, section 3).
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.statistics = Statistics()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...].

        Raises:
            ValueError: the statistics would be of a single value per channel.
        """
        at = self.statistics
        if at == Statistics() and not under_vmap():
            _check_enough(x, x)
            # What F.batch_norm calls; that would be seen as one that is replaced (`overrides`).
            cudnn = torch.backends.cudnn.enabled
            return torch.batch_norm(
                x, self.weight, self.bias, None, None, True, 0.0, self.eps, cudnn
            )
        # Elementary operations rather than batch_norm: under vmap the derivative of its backward
        # with respect to its input is wrong (torch 2.13; see also the open
        # github.com/pytorch/functorch/issues/534), by percents of MAML's meta-gradient.
        # Two sums rather than var_mean, and the mean taken off first: a tenth of a step faster on a
        # CPU, and nothing cancels.
        wide, dtype = x.float() if x.dtype == torch.bfloat16 else x, x.dtype
        if at.given is not None:
            mean, variance = next(at.given)
            centred = wide - mean
        else:
            _check_enough(x[: at.rows], x)  # [: None] is all of them
            dims = [d for d in range(x.dim()) if d != 1]
            mean = wide[: at.rows].mean(dims, keepdim=True)
            centred = wide - mean
            variance = centred[: at.rows].square().mean(dims, keepdim=True)
        if at.recorded is not None:
            at.recorded.append(Moments(mean, variance))
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.view(shape)
        shift = mean.new_zeros(()) if self.bias is None else self.bias.view(shape)
        return torch.addcmul(shift, centred, scale).to(dtype)


def _check_enough(rows: Tensor, x: Tensor) -> None:
    if rows.numel() <= rows.shape[1]:
        raise ValueError(
            f"batch statistics must be of more than one value per channel, got {list(x.shape)} "
            "(rows, channels, ...); raise task.shots or lower model.blocks"
        )


NORMS = (BatchStatisticsNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def without_running_statistics(module: nn.Module, name: str = "") -> nn.Module:
    """The module with its batch-norms and instance-norms converted, in place.

    Batch-norms become `BatchStatisticsNorm`; instance-norms take the statistics of each example in
    evaluation, too, as in training.

    Raises:
        ValueError: the weights of a batch-norm are parametrized.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"batch-norm layers must have plain weights, got parametrized ones in {name!r}; "
                "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        return _with_hooks_of(module, BatchStatisticsNorm(module))
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        module.track_running_stats = False
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            module.register_buffer(buffer, None)
    for child_name, child in list(module._modules.items()):  # named_children skips a second use
        if child is not None:
            path = f"{name}.{child_name}".lstrip(".")
            setattr(module, child_name, without_running_statistics(child, path))
    return module


def _with_hooks_of(old: nn.Module, new: nn.Module) -> nn.Module:
    hooks = (name for name in vars(old) if name.endswith(("_hooks", "_hooks_with_kwargs")))
    for name in (*hooks, "_forward_hooks_always_called", "training"):
        setattr(new, name, getattr(old, name))
    return new
