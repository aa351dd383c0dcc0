"""Imports torchvision, even where its compiled operators do not fit this torch.

The torchvision of the package index is linked against CUDA. With a CPU-only torch its extension
does not load; torchvision shrugs that off, and then fails on import all the same, because it
registers shape functions for two operators that nobody has declared (`operator torchvision::nms
does not exist`). Declaring their schemas lets the import pass. The operators still have no code:
calling one raises, and data sets and classifiers call none.

torchvision takes a second to import, and torchmetrics two, so nothing but `task.download`,
`task.augment`, `model=torchvision` and the metrics that need it do.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []
"""The torch.library.Library that holds the schemas: they vanish with it."""


def import_datasets() -> ModuleType:
    """``torchvision.datasets``; does nothing but import it where that works as it is.

    Raises:
        ImportError: torchvision is not installed.
    """
    return _imported("torchvision.datasets")


def import_models() -> ModuleType:
    """``torchvision.models``; likewise."""
    return _imported("torchvision.models")


def import_transforms() -> ModuleType:
    """``torchvision.transforms.v2``; likewise."""
    return _imported("torchvision.transforms.v2")


def import_torchmetrics() -> ModuleType:
    """``torchmetrics.functional``, which imports torchvision.

    Raises:
        ImportError: torchmetrics is not installed.
    """
    _imported("torchvision")
    return importlib.import_module("torchmetrics.functional")


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]  # half imported
    if not _declared:
        from torch.library import Library

        library: Any = Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    return importlib.import_module(module)
