"""Any classifier of torchvision, by its name.

Papers: https://docs.pytorch.org/vision/stable/models.html. Nothing is downloaded: weights are drawn
from the seed, or come from a file (`model.init_from`) whose last layer may have other outputs.

Differs from torchvision: batch-norms take batch statistics; activations are not in place; without
outputs, an embedding, the last linear layer is left out.
"""

from __future__ import annotations

from torch import nn

from dmeta.models.sizes import check_image
from dmeta.registry import nearest
from dmeta.torchvision_compat import import_models

_CHANNELS = 3


def torchvision(
    input_shape: tuple[int, ...], num_outputs: int | None, arch: str = "resnet18"
) -> nn.Module:
    """A network of `torchvision.models`.

    Args:
        input_shape: (channels, height, width), of 3 channels.
        num_outputs: width of the last layer; None: no such layer, an embedding.
        arch: its name in torchvision, such as ``resnet18``, ``vgg11_bn``, ``mobilenet_v3_small`` or
            ``convnext_tiny``: one of ``torchvision.models.list_models(torchvision.models)``.

    Raises:
        ValueError: there is no such classifier; the input is no image of 3 channels.
    """
    check_image("torchvision", input_shape, 1, "choose a task of larger images")
    if input_shape[0] != _CHANNELS:
        raise ValueError(
            f"model=torchvision must have images of {_CHANNELS} channels, which its networks take, "
            f"got {input_shape[0]}; choose model=resnet18, which takes any number, or other images"
        )
    models = import_models()
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(
            f"model.arch must be a classifier of torchvision, got {arch!r}{nearest(arch, known)}; "
            f"choose one of {', '.join(known)}"
        )
    module: nn.Module = models.get_model(arch, weights=None, num_classes=num_outputs or 1)
    for layer in module.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # type: ignore[assignment]
    if num_outputs is None:
        _remove_head(module, arch)
    return module


def _remove_head(module: nn.Module, arch: str) -> None:
    """Put nothing in the place of the last linear layer."""
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or module.get_submodule(linear[-1]).out_features != 1:
        raise ValueError(
            f"model.arch must end in a linear layer for a method that embeds, got {arch}; choose "
            "another, such as resnet18"
        )
    module.set_submodule(linear[-1], nn.Identity())
