"""Normalisation layers without running statistics, with the statistics of chosen examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dmeta.models.overrides import under_vmap

BatchNormKind: TypeAlias = Literal["transductive", "support", "task_norm", "task_norm_l"]
"""What normalises the queries of a task: see `dmeta.training.config.RunConfig`."""


class Moments(NamedTuple):
    """Batch statistics of one application of a layer.

    Attributes:
        mean: [1, C, 1, ...] float32 or wider.
        variance: [1, C, 1, ...], biased.
        num_examples: that they are of.
    """

    mean: Tensor
    variance: Tensor
    num_examples: int


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

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.statistics = Statistics()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...].

        Raises:
            ValueError: the statistics would be of a single value per channel.
        """
        return normalized(x, self.weight, self.bias, self.eps, self.statistics)


def normalized(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, at: Statistics
) -> Tensor:
    """Batch-norm as a function: [N, C, ...] -> [N, C, ...].

    Args:
        x: what is normalised.
        weight: scale of each channel [C]; None: 1.
        bias: shift of each channel [C]; None: 0.
        eps: added to the variances.
        at: where the statistics are from.

    Raises:
        ValueError: the statistics would be of a single value per channel.
    """
    if at == Statistics() and not under_vmap():
        _check_enough(x, x)
        # What F.batch_norm calls; that would be seen as one that is replaced (`overrides`).
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, weight, bias, None, None, True, 0.0, eps, cudnn)
    # Elementary operations rather than batch_norm: under vmap the derivative of its backward
    # with respect to its input is wrong (torch 2.13; see also the open
    # github.com/pytorch/functorch/issues/534), by percents of MAML's meta-gradient.
    # Two sums rather than var_mean, and the mean taken off first: a tenth of a step faster on a
    # CPU, and nothing cancels.
    wide, dtype = x.float() if x.dtype == torch.bfloat16 else x, x.dtype
    if at.given is not None:
        mean, variance, _ = next(at.given)
        centred = wide - mean
    else:
        _check_enough(x[: at.rows], x)  # [: None] is all of them
        dims = [d for d in range(x.dim()) if d != 1]
        mean = wide[: at.rows].mean(dims, keepdim=True)
        centred = wide - mean
        variance = centred[: at.rows].square().mean(dims, keepdim=True)
    if at.recorded is not None:
        at.recorded.append(Moments(mean, variance, len(x[: at.rows])))
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.view(shape)
    shift = mean.new_zeros(()) if bias is None else bias.view(shape)
    return torch.addcmul(shift, centred, scale).to(dtype)


class TaskNorm(nn.Module):
    """Batch-norm on the moments of a task's support set, blended with those of each example.

    Bronskill et al. 2020 (arXiv:2003.03284), TaskNorm. With moments (m, v) of the
    support set and (m_x, v_x) of an example x alone,

        alpha = sigmoid(scale S + offset)  for S support examples
        mean = alpha m + (1 - alpha) m_x
        variance = alpha (v + (m - mean)^2) + (1 - alpha) (v_x + (m_x - mean)^2)

    ``scale`` and ``offset`` are learned, each layer's own. An example's moments are those of each
    channel over its pixels (TaskNorm-I) or of all its channels and pixels (TaskNorm-L). No query
    sees another one.

    Differs from the paper: an inner loop moves scale and offset as it does the other parameters;
    where inner steps are taken on mini-batches, the mini-batch is the support set.
    """

    def __init__(self, norm: Any, *, over_channels: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.over_channels, self.statistics = over_channels, Statistics()
        dtype = self.weight.dtype if isinstance(self.weight, Tensor) else None
        self.alpha_scale = nn.Parameter(torch.zeros((), dtype=dtype))
        self.alpha_offset = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...].

        Raises:
            ValueError: the support set's moments would be of a single value per channel.
        """
        wide, dtype = x.float() if x.dtype == torch.bfloat16 else x, x.dtype
        of_support = self._of_support(wide)
        mean, variance = self._blended(of_support, *self._of_each(wide))
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        out = (wide - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        return out.to(dtype)

    def _of_support(self, x: Tensor) -> Moments:
        at = self.statistics
        if at.given is not None:
            found = next(at.given)
        else:
            rows = x[: at.rows]
            _check_enough(rows, x)
            mean, variance = _moments(rows, [d for d in range(x.dim()) if d != 1])
            found = Moments(mean, variance, len(rows))
        if at.recorded is not None:
            at.recorded.append(found)
        return found

    def _of_each(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each example: [N, C, 1, ...], or [N, 1, 1, ...] over channels."""
        return _moments(x, list(range(1 if self.over_channels else 2, x.dim())))

    def _blended(self, support: Moments, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.sigmoid(self.alpha_scale * support.num_examples + self.alpha_offset)
        both = alpha * support.mean + (1 - alpha) * mean
        of_support = support.variance + (support.mean - both).square()
        return both, alpha * of_support + (1 - alpha) * (variance + (mean - both).square())


def _moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over dimensions; of single values if there are none."""
    if not dims:
        return x, torch.zeros_like(x)
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def _check_enough(rows: Tensor, x: Tensor) -> None:
    if rows.numel() <= rows.shape[1]:
        raise ValueError(
            f"batch statistics must be of more than one value per channel, got {list(x.shape)} "
            "(rows, channels, ...); raise task.shots or lower model.blocks"
        )


BATCH_NORMS = (BatchStatisticsNorm, TaskNorm)
"""Layers that take the statistics of several examples."""

NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def without_running_statistics(
    module: nn.Module, name: str = "", kind: BatchNormKind = "transductive"
) -> nn.Module:
    """The module with its batch-norms and instance-norms converted, in place.

    Batch-norms become `BatchStatisticsNorm`, or `TaskNorm` if `kind` says so; instance-norms take
    the statistics of each example in evaluation, too, as in training.

    Raises:
        ValueError: the weights of a batch-norm are parametrized.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"batch-norm layers must have plain weights, got parametrized ones in {name!r}; "
                "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        return _with_hooks_of(module, _converted(module, kind))
    if isinstance(module, BatchStatisticsNorm):  # of a network that was made before
        return _with_hooks_of(module, _converted(module, kind))
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        module.track_running_stats = False
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            module.register_buffer(buffer, None)
    for child_name, child in list(module._modules.items()):  # named_children skips a second use
        if child is not None:
            path = f"{name}.{child_name}".lstrip(".")
            setattr(module, child_name, without_running_statistics(child, path, kind))
    return module


def _converted(norm: nn.Module, kind: BatchNormKind) -> nn.Module:
    if kind in ("task_norm", "task_norm_l"):
        return TaskNorm(norm, over_channels=kind == "task_norm_l")
    return BatchStatisticsNorm(norm)


def _with_hooks_of(old: nn.Module, new: nn.Module) -> nn.Module:
    hooks = (name for name in vars(old) if name.endswith(("_hooks", "_hooks_with_kwargs")))
    for name in (*hooks, "_forward_hooks_always_called", "training"):
        setattr(new, name, getattr(old, name))
    return new
