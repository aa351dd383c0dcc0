"""Replacements for torch functions that would give a network wrong numbers.

* Normalisation with a scale (``layer_norm``, ``instance_norm``, ``batch_norm``): under
  `torch.func.vmap` the derivative of torch's backward is wrong (torch 2.13; see the open
  github.com/pytorch/functorch/issues/534), by up to 15% of a meta-gradient. Without scale and shift
  it is right, so these are applied afterwards.
* Weight normalisation: torch's second derivative is wrong with or without vmap (torch 2.13, by tens
  of percents; `torch.autograd.gradgradcheck` shows it), so it is computed by elementary operations.
* Dropout and RReLU: torch's generator is shared by all tasks that are computed at once, and a step
  that is computed again draws again. Here masks and slopes are functions of the task's seed and of
  the place in its computation (`dmeta.randomness`).

Not replaced: random functions that torch calls inside one of its own (the dropout of attention
weights in `nn.MultiheadAttention`, that between the layers of `nn.LSTM`) and all others
(``torch.randn``). `dmeta.models.tracing` finds those, and `Network` seeds torch's generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dmeta import randomness

Handler: TypeAlias = Callable[["TaskFunctions", Callable[..., Any], dict[str, Any]], Any]
"""(mode, torch's function, its arguments by name) -> what to return instead of its result."""

_SELU_ALPHA = 1.7580993408473766  # alpha dropout sends units to the negative of this


def under_vmap() -> bool:
    """Whether `torch.func.vmap` maps the caller, directly or around another transformation."""
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)


class TaskFunctions(TorchFunctionMode):
    """Within the context, this thread's calls are replaced as the module's text says.

    Args:
        prefix: tells the draws of one part of a network from those of another.
    """

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self._prefix, self._num_draws = prefix, 0
        self.is_used = False  # whether anything was replaced

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the replacement, or the function itself."""
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        if handler is None:
            return func(*args, **kwargs)
        self.is_used = True
        bound = _SIGNATURES[func].bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        out = handler(self, func, given)
        is_in_place = given.get("inplace", False) and out is not given["input"]
        return given["input"].copy_(out) if is_in_place else out

    def next_name(self) -> str:
        """Of the next draw: the place in the task's computation, and a count."""
        self._num_draws += 1
        return f"{randomness.drawn_for().place}/{self._prefix}{self._num_draws}"


def _keep(mode: TaskFunctions, x: Tensor, shape: torch.Size, rate: float) -> Tensor:
    seed = randomness.drawn_for().seed
    return randomness.keep_mask(seed, mode.next_name(), shape, rate, x.device).to(x.dtype)


def _per_channel(x: Tensor, spatial: int) -> torch.Size:
    """Of a mask for whole channels; a 3-D input of dropout2d is [N, C, L], as in torch."""
    batched = x.dim() > spatial + 1 or (spatial == 2 and x.dim() == 3)
    lead = 2 if batched else 1
    return torch.Size([*x.shape[:lead], *(1 for _ in x.shape[lead:])])


def _dropout(spatial: int | None) -> Handler:
    def dropout(mode: TaskFunctions, func: Callable[..., Any], given: dict[str, Any]) -> Any:
        x, rate = given["input"], given["p"]
        if not given["training"] or not 0 < rate < 1:
            return func(**given)
        shape = x.shape if spatial is None else _per_channel(x, spatial)
        return x * (_keep(mode, x, shape, rate) / (1 - rate))

    return dropout


def _alpha_dropout(per_channel: bool) -> Handler:
    """Klambauer et al. 2017 (arXiv:1706.02515), section 2, as torch computes it."""

    def dropout(mode: TaskFunctions, func: Callable[..., Any], given: dict[str, Any]) -> Any:
        x, rate = given["input"], given["p"]
        if not given["training"] or not 0 < rate < 1:
            return func(**given)
        shape = _per_channel(x, x.dim() - 2) if per_channel else x.shape
        kept = _keep(mode, x, shape, rate)
        scale = ((_SELU_ALPHA**2 * rate + 1) * (1 - rate)) ** -0.5
        return x * (scale * kept) + _SELU_ALPHA * scale * (kept - 1 + rate)

    return dropout


def _rrelu(mode: TaskFunctions, func: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ARG001
    """Xu et al. 2015 (arXiv:1505.00853), section 2.4: a slope for each negative element."""
    x, lower, upper = given["input"], given["lower"], given["upper"]
    if not given["training"]:
        return F.leaky_relu(x, (lower + upper) / 2)
    seed = randomness.drawn_for().seed
    drawn = randomness.random_uniform(seed, mode.next_name(), x.shape, x.device).to(x.dtype)
    return torch.where(x < 0, (lower + (upper - lower) * drawn) * x, x)


def _scaled_afterwards(per_channel: bool) -> Handler:
    """Normalisation whose scale and shift are ordinary products and sums, under vmap."""

    def norm(mode: TaskFunctions, func: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ARG001
        weight, bias = given["weight"], given["bias"]
        if (weight is None and bias is None) or not under_vmap():
            return func(**given)
        out = func(**{**given, "weight": None, "bias": None})
        shape = [-1 if d == 1 else 1 for d in range(out.dim())]
        if weight is not None:
            out = out * (weight.view(shape) if per_channel else weight)
        return out if bias is None else out + (bias.view(shape) if per_channel else bias)

    return norm


def _weight_norm_arguments(v: Tensor, g: Tensor, dim: int = 0) -> None:
    """Those of ``torch._weight_norm``, of which Python knows no signature."""


def _weight_norm(mode: TaskFunctions, func: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ARG001
    """Salimans & Kingma 2016 (arXiv:1602.07868), eq. 2: w = g v / |v|, for each row of `dim`."""
    v, g, dim = given["v"], given["g"], given["dim"]
    others = [d for d in range(v.dim()) if d != dim % v.dim()] if dim != -1 else None
    return v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1))


_HANDLERS: dict[Any, Handler] = {
    torch._weight_norm: _weight_norm,
    F.layer_norm: _scaled_afterwards(per_channel=False),
    F.instance_norm: _scaled_afterwards(per_channel=True),
    F.batch_norm: _scaled_afterwards(per_channel=True),
    F.dropout: _dropout(None),
    F.dropout1d: _dropout(1),
    F.dropout2d: _dropout(2),
    F.dropout3d: _dropout(3),
    F.alpha_dropout: _alpha_dropout(per_channel=False),
    F.feature_alpha_dropout: _alpha_dropout(per_channel=True),
    F.rrelu: _rrelu,
}

_SIGNATURES = {
    func: inspect.signature(_weight_norm_arguments if func is torch._weight_norm else func)
    for func in _HANDLERS
}
