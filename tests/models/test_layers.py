"""Second derivatives of torch's layers and functions, as a network computes them.

The exact meta-gradient of MAML on a small network around each, in float64: by ``vmap`` against the
loop, and both against differences of first derivatives. torch has some of them wrong
(`dmeta.models.overrides`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dmeta.algorithms.inner_loop import InnerLoop
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.estimators import FiniteDifference, exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.types import Examples, Stage, Task
from dmeta.models.network import Network
from tests.bilevel.problems import flat, relative_error

V, S, I1, I2, I3 = (6,), (5, 6), (4, 6), (4, 6, 6), (4, 4, 4, 4)
TRAINING = Stage(training=True, ways=3)
Function = Callable[[Tensor], Any]


class Call(nn.Module):
    """A function, or a layer that gives more than a tensor."""

    def __init__(self, function: Function | nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out = self.function(x)
        return out[0] if isinstance(out, tuple) else out


class SelfAttention(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need = nn.MultiheadAttention(6, 2, batch_first=True), need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need)[0]


class Around(nn.Module):
    """A product with a weight before the layer, and a linear layer after it."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        width = shape[-1]
        self.before = nn.Parameter(torch.eye(width) + 0.1 * torch.randn(width, width))
        self.layer = layer
        with torch.no_grad():
            self.after = nn.Linear(
                layer.double()(torch.randn(4, *shape).double()).flatten(1).shape[1], 3
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.tanh(self.layer(x @ self.before).flatten(1)))


def _scale_and_shift(
    norm: Callable[..., Tensor], *given: Any, width: int
) -> Callable[[], nn.Module]:
    """A functional normalisation with parameters of the model's own."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))
            self.shift = nn.Parameter(torch.zeros(width))

        def forward(self, x: Tensor) -> Tensor:
            named = {"training": True} if norm is F.batch_norm else {}
            return norm(x, *given, weight=self.scale, bias=self.shift, **named)

    return Own


ACTIVATIONS = (
    *("ReLU", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus", "Softsign"),
    *("Tanh", "Sigmoid", "LogSigmoid", "Hardtanh", "Hardswish", "ReLU6", "Hardshrink"),
    *("Softshrink", "Tanhshrink", "PReLU", "GLU"),
)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 5), S),
    "Conv1d": (lambda: nn.Conv1d(4, 3, 3), I1),
    "Conv2d": (lambda: nn.Conv2d(4, 3, 3), I2),
    "Conv3d": (lambda: nn.Conv3d(4, 3, 3), I3),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 4, 3, groups=4), I2),
    "Conv2d, dilated": (lambda: nn.Conv2d(4, 4, 3, dilation=2, padding=2), I2),
    "Conv2d, circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), I2),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 3), I1),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), I2),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 3, 3), I3),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), V),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), I2),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), I3),
    "F.batch_norm": (_scale_and_shift(F.batch_norm, None, None, width=4), I2),
    "LayerNorm, vectors": (lambda: nn.LayerNorm(6), V),
    "LayerNorm, sequences": (lambda: nn.LayerNorm(6), S),
    "LayerNorm, images": (lambda: nn.LayerNorm((6, 6)), I2),
    "LayerNorm, not affine": (lambda: nn.LayerNorm(6, elementwise_affine=False), S),
    "F.layer_norm": (_scale_and_shift(F.layer_norm, (6,), width=6), S),
    "GroupNorm, images": (lambda: nn.GroupNorm(2, 4), I2),
    "GroupNorm, vectors": (lambda: nn.GroupNorm(2, 6), V),
    "InstanceNorm1d, affine": (lambda: nn.InstanceNorm1d(4, affine=True), I1),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4), I2),
    "InstanceNorm2d, affine": (lambda: nn.InstanceNorm2d(4, affine=True), I2),
    "InstanceNorm3d, affine": (lambda: nn.InstanceNorm3d(4, affine=True), I3),
    "F.instance_norm": (_scale_and_shift(F.instance_norm, width=4), I2),
    "RMSNorm": (lambda: nn.RMSNorm(6), S),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), I2),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 4)), S),
    "weight_norm, whole": (lambda: parametrizations.weight_norm(nn.Linear(6, 4), dim=None), S),
    "weight_norm, Conv2d": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3), dim=1), I2),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), I1),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), I2),
    "MaxPool2d, overlapping": (lambda: nn.MaxPool2d(3, 1, 1), I2),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), I3),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), I1),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), I2),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), I3),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(2), I1),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), I2),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d(2), I3),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), I2),
    **{name: (getattr(nn, name), S) for name in ACTIVATIONS},
    "GELU, tanh": (lambda: nn.GELU("tanh"), S),
    "Threshold": (lambda: nn.Threshold(0.1, 0.0), S),
    "Softmax": (lambda: nn.Softmax(-1), S),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), S),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), I2),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(1), I2),
    "CircularPad2d": (lambda: nn.CircularPad2d(1), I2),
    "Upsample, nearest": (lambda: nn.Upsample(scale_factor=2), I2),
    "Upsample, bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), I2),
    "Upsample, bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), I2),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), I2),
    "Unfold": (lambda: nn.Unfold(3), I2),
    "MultiheadAttention": (lambda: SelfAttention(True), S),
    "MultiheadAttention, fused": (lambda: SelfAttention(False), S),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True),
        S,
    ),
    "RNN": (lambda: Call(nn.RNN(6, 4, batch_first=True)), S),
    "LSTM": (lambda: Call(nn.LSTM(6, 4, batch_first=True)), S),
    "GRU": (lambda: Call(nn.GRU(6, 4, batch_first=True)), S),
    "LSTMCell": (lambda: Call(nn.LSTMCell(6, 4)), V),
}

FUNCTIONS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "scaled_dot_product_attention": (lambda x: F.scaled_dot_product_attention(x, x, x), S),
    "normalize": (lambda x: F.normalize(x, dim=1), I2),
    "cosine_similarity": (lambda x: F.cosine_similarity(x[:, None], x[:, :, None], -1), S),
    "fold": (lambda x: F.fold(F.unfold(x, 2), (6, 6), 2), I2),
    "grid_sample": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
        I2,
    ),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), S),
    "logsumexp": (lambda x: x.logsumexp(-1), S),
    "cumsum": (lambda x: x.cumsum(-1), S),
    "cumprod": (lambda x: x.cumprod(-1), S),
    "prod": (lambda x: x.prod(-1), S),
    "sort": (lambda x: x.sort(-1).values, S),
    "topk": (lambda x: x.topk(2, -1).values, S),
    "std": (lambda x: x.std(-1), S),
    "norm": (lambda x: x.norm(dim=-1), S),
    "rfft": (lambda x: torch.fft.rfft(x).abs(), S),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(5).to(x)), S),
    "solve": (lambda x: torch.linalg.solve(x @ x.mT + torch.eye(5).to(x), x), S),
    "gather": (lambda x: x.gather(-1, x.argsort(-1)), S),
    "scatter": (lambda x: torch.zeros_like(x).scatter(-1, x.argsort(-1), x), S),
    "where": (lambda x: torch.where(x > 0, x, x**2), S),
    "roll": (lambda x: x.roll(1, -1), S),
}
ALL = LAYERS | {
    name: (lambda function=function: Call(function), shape)
    for name, (function, shape) in FUNCTIONS.items()
}
NOT_MAPPED = ("RNN", "LSTM", "GRU", "LSTMCell")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # mapped by a loop in torch
@pytest.mark.parametrize("name", ALL)
def test_second_derivatives_are_right_by_every_plan(name: str) -> None:
    make, shape = ALL[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = Around(make(), shape).double()
        x = torch.randn(2, 2, 6, *shape, dtype=torch.float64)
    labels = (torch.arange(6) % 3).expand(2, 6)
    tasks = Task(Examples(x[0], labels), Examples(x[1], labels))
    network = Network.of(module).traced(x[0, 0])
    algorithm = Maml(network, F.cross_entropy, InnerLoop(inner_lr=0.1, inner_steps=2))

    def gradient(plan: Any, estimator: Any) -> Tensor:
        params = network.init_params()
        return flat(block_gradient(plan, estimator, algorithm, params, tasks, TRAINING).gradients)

    loop = gradient("loop", exact)
    assert relative_error(gradient("loop", FiniteDifference(1e-7)), loop) < 1e-5
    if name in NOT_MAPPED:
        with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
            gradient("vmap", exact)
    else:
        assert relative_error(gradient("vmap", exact), loop) < 1e-12
