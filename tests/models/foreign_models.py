"""Small models as people bring them: none is written for dmeta, and none is in its registry.

Inputs are float64 except where a model takes something else. Seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from dmeta.torchvision_compat import import_datasets

import_datasets()  # so that the next lines work with a CPU build of torch

from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402
from torchvision.models.resnet import BasicBlock, ResNet  # noqa: E402
from torchvision.models.vision_transformer import VisionTransformer  # noqa: E402

WAYS = 3
IMAGE, SEQUENCE, VECTOR = (3, 16, 16), (5, 6), (6,)


class LastStep(nn.Module):
    """A recurrent network's last output, and a linear layer."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = cell(6, 4, batch_first=True)
        self.fc = nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class Transformer(nn.Module):
    """An encoder layer, the mean over positions, a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.fc = nn.Linear(6, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(x).mean(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(6, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.second(torch.tanh(self.first(x)))))


class HeadFirst(nn.Module):
    """Registers its classifier before its body."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(5, WAYS)
        self.body = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.body(x)))


class Cosine(nn.Sequential):
    """A sequence that does something else with the output of its layers."""

    def __init__(self, width: int = 5) -> None:
        super().__init__(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, WAYS))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.normalize(super().forward(x), dim=1)


class Rescaled(nn.Module):
    """Normalises its input by buffers, and applies torch's functions itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, 6))
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.shift = nn.Parameter(torch.zeros(6))
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(30, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(self.fc1(x - self.mean), (6,), self.scale, self.shift)
        return self.fc2(torch.tanh(h).flatten(1))


class _WeightNorm(nn.Module):
    """Weight normalisation as its paper writes it (arXiv:1602.07868, eq. 2)."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / v.square().sum(1, keepdim=True).sqrt()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.square().sum(1, keepdim=True).sqrt(), weight


def _weight_norm_of_the_paper(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", _WeightNorm())
    return layer


def _frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, WAYS))
    module[0].requires_grad_(False)
    return module


def _convs(norm: nn.Module, *after: nn.Module) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3, stride=4)
    return nn.Sequential(conv, norm, nn.Tanh(), *after, nn.Flatten(), nn.Linear(64, WAYS))


def _resnet() -> nn.Module:
    """Torchvision's, with group norm, of its first stage alone."""
    made = ResNet(BasicBlock, [1, 1, 1, 1], WAYS, norm_layer=partial(nn.GroupNorm, 2))
    made.layer2 = made.layer3 = made.layer4 = nn.Identity()
    made.fc = nn.Linear(64, WAYS)
    return made


def _convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], 0.0, 1.0, num_classes=WAYS)


def _vit() -> nn.Module:
    vit = VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=WAYS)
    nn.init.normal_(vit.heads.head.weight)  # zeros at first: nothing would reach the body
    return vit


def _linear_with(wrap: Callable[[nn.Module], nn.Module], width: int = 5) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(6, width)), nn.Tanh(), nn.Linear(width, WAYS))


DETERMINISTIC: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet, GroupNorm": (_resnet, IMAGE),
    "ConvNeXt": (_convnext, IMAGE),
    "ViT": (_vit, IMAGE),
    "Transformer": (Transformer, SEQUENCE),
    "LSTM": (partial(LastStep, nn.LSTM), SEQUENCE),
    "GRU": (partial(LastStep, nn.GRU), SEQUENCE),
    "BatchNorm": (lambda: _convs(nn.BatchNorm2d(4)), IMAGE),
    "InstanceNorm, affine": (lambda: _convs(nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "InstanceNorm, running statistics": (
        lambda: _convs(nn.InstanceNorm2d(4, track_running_stats=True)),
        IMAGE,
    ),
    "LayerNorm on images": (lambda: _convs(nn.LayerNorm([4, 4, 4])), IMAGE),
    "F.layer_norm, buffers": (Rescaled, SEQUENCE),
    "tied weights": (Tied, VECTOR),
    "classifier registered first": (HeadFirst, VECTOR),
    "Sequential with its own forward": (Cosine, VECTOR),
    "frozen part": (_frozen, VECTOR),
    "weight_norm": (lambda: _linear_with(parametrizations.weight_norm), VECTOR),
}
"""Name -> how it is made, and the shape of one input."""

REFERENCES = {"weight_norm": lambda: _linear_with(_weight_norm_of_the_paper)}
"""Name -> the same model without the operation whose second derivative torch has wrong."""

RANDOM: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Dropout": (lambda: nn.Sequential(nn.Dropout(0.5), *_frozen()), VECTOR),
    "Dropout2d": (lambda: _convs(nn.Identity(), nn.Dropout2d(0.5)), IMAGE),
    "AlphaDropout": (lambda: nn.Sequential(nn.AlphaDropout(0.5), *_frozen()), VECTOR),
    "RReLU": (lambda: nn.Sequential(nn.Linear(6, 5), nn.RReLU(), nn.Linear(5, WAYS)), VECTOR),
    "Transformer, dropout": (partial(Transformer, 0.3), SEQUENCE),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "spectral_norm": (
        lambda: _linear_with(parametrizations.spectral_norm, 4),
        VECTOR,
        r"must not change its buffers .* 0\.parametrizations\.weight\.0\._[uv] of _SpectralNorm",
    ),
    "spectral_norm, old": (
        lambda: _linear_with(nn.utils.spectral_norm, 4),  # type: ignore[arg-type]
        VECTOR,
        r"must not change its buffers .*weight_[uv] of Linear",
    ),
    "weight_norm, old": (
        lambda: _linear_with(nn.utils.weight_norm),
        VECTOR,
        "copy.deepcopy can copy.*torch.nn.utils.parametrizations",
    ),
    "lazy layer": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, WAYS)),
        VECTOR,
        "must have all its parameters, got 0.weight, 0.bias of lazy layers",
    ),
}
"""Name -> how it is made, the shape of one input, what the refusal says."""


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The model in float64."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return make().double()
