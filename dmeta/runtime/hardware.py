"""The hardware of a worker, as far as the bits of its results may depend on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from dmeta.capacity import cpu_model
from dmeta.runtime.messages import Hardware


def description(device: str) -> dict[str, str]:
    """Kind of device and versions of what computes there, by name.

    A GPU's multiprocessors tell slices of one GPU (MIG) apart.

    Args:
        device: ``cpu`` or ``cuda``, of this process.
    """
    torch = sys.modules.get("torch")
    if device != "cuda" or torch is None or not torch.cuda.is_available():
        found = {"device": cpu_model()}
        if torch is not None and hasattr(torch, "backends"):
            found["capability"] = torch.backends.cpu.get_cpu_capability()
    else:
        properties = torch.cuda.get_device_properties(0)
        found = {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    version = getattr(torch, "__version__", None)
    return found if version is None else found | {"torch": version}


def by_kind(descriptions: Mapping[int, Mapping[str, str]]) -> tuple[Hardware, ...]:
    """Workers' numbers by what they compute on.

    Args:
        descriptions: number -> what `description` said there.
    """
    kinds: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for worker in sorted(descriptions):
        kinds.setdefault(tuple(descriptions[worker].items()), []).append(worker)
    return tuple(Hardware(tuple(workers), dict(kind)) for kind, workers in kinds.items())
