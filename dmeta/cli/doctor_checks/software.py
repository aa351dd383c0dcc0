"""Checks of what is installed: Python, torch, its GPU, torchvision, Ray, a compiler."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dmeta.cli.doctor_checks.finding import Finding
from dmeta.cli.versions import version_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_OLDEST_PYTHON = (3, 11)
_CUDA_WHEELS = "https://pytorch.org/get-started/locally"
_DEVICES = Path("/dev")


def check_python() -> Finding:
    """Whether Python is one that dmeta runs on."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        wanted = ".".join(map(str, _OLDEST_PYTHON))
        return Finding("problem", found, f"install Python {wanted} or later")
    return Finding("ok", found)


def check_torch() -> Finding:
    """Whether torch can be imported, and is a version that dmeta was tested with."""
    return _importable("torch")


def check_torchvision() -> Finding:
    """Whether torchvision's data sets can be imported; only ``task.download=true`` needs them."""
    found = _installed("torchvision")
    if found.level == "problem":
        return Finding("warning", found.found, found.remedy)
    from dmeta.torchvision_compat import import_datasets

    try:
        import_datasets()
    except Exception as error:  # of another torch: whatever its import raises
        return Finding(
            "warning",
            f"{found.found}, which cannot be imported ({_first_line(error)}): task.download=true "
            "will fail",
            f"install the torchvision that belongs to this torch: {_CUDA_WHEELS}",
        )
    return found


def check_ray() -> Finding:
    """Whether Ray can be imported; ``runtime=local`` works without."""
    return _importable("ray")


def check_gpu() -> Finding:
    """Which GPUs torch can use; a GPU that it cannot is a warning."""
    import torch

    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(count)}))
        return Finding("ok", f"{count} ({names}); {built}")
    if not any(_DEVICES.glob("nvidia[0-9]*")):
        return Finding("ok", "none: everything is computed on the CPU")
    if not built:
        return Finding(
            "warning",
            "there is a GPU, but torch is built for the CPU alone",
            f"install torch for CUDA: {_CUDA_WHEELS}",
        )
    return Finding(
        "warning",
        f"there is a GPU, but torch cannot use it ({built})",
        "update the NVIDIA driver (`nvidia-smi` shows the CUDA version it supports), or unset "
        "CUDA_VISIBLE_DEVICES",
    )


def check_compiler() -> Finding:
    """Whether there is what ``compute.plan=compiled`` needs: a C++ compiler, and Python's headers.

    All other plans work without.
    """
    wanted = [each for each in (os.environ.get("CXX"), "g++", "clang++", "c++") if each]
    compiler = next((path for each in wanted if (path := shutil.which(each))), None)
    if compiler is None:
        return Finding(
            "warning",
            f"no C++ compiler ({', '.join(wanted)}): compute.plan=compiled will be refused",
            "install one (Debian, Ubuntu: apt-get install g++), or use another compute.plan",
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return Finding(
            "warning",
            f"{compiler}, but no Python.h: compute.plan=compiled may fail",
            "install Python's headers (Debian, Ubuntu: apt-get install python3-dev)",
        )
    return Finding("ok", compiler)


def _importable(package: str) -> Finding:
    found = _installed(package)
    if found.level == "problem":
        return found
    try:
        import_module(package)
    except Exception as error:  # a missing or broken shared library, say
        return Finding(
            "problem",
            f"{found.found} cannot be imported: {_first_line(error)}",
            f"install it again: pip install --force-reinstall '{package}'",
        )
    return found


def _installed(package: str) -> Finding:
    """Whether its version is one that dmeta asks for."""
    version, wanted = version_of(package), requirement(package, metadata.requires("dmeta") or ())
    text = package if wanted is None else f"{package}{wanted.specifier}"
    if version is None:
        return Finding("problem", "not installed", f"pip install '{text}'")
    if wanted is not None and not wanted.specifier.contains(version, prereleases=True):
        said = f"{version}; dmeta is tested with {wanted.specifier}"
        return Finding("warning", said, f"pip install '{text}'")
    return Finding("ok", version)


def requirement(package: str, lines: Iterable[str]) -> Requirement | None:
    """What is asked of a package, among the lines of a distribution's metadata."""
    from packaging.requirements import Requirement  # Hydra needs it

    found = (Requirement(line) for line in lines)
    return next((each for each in found if each.name == package and each.marker is None), None)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
