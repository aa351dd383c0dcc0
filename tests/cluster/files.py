"""The files of `cluster/`, read; and what pyproject.toml says of the same things."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
README = CLUSTER / "README.md"
CONTAINERFILE = CLUSTER / "container" / "Containerfile"
RAY_YAMLS = sorted((CLUSTER / "ray").glob("*.yaml"))
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement(name: str) -> Requirement:
    """What the project asks of a package."""
    return next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name)


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(kind: str) -> Any:
    """The one document of a kind in the manifests."""
    [found] = [d for path in MANIFESTS for d in documents(path) if d["kind"] == kind]
    return found


def ray_cluster_specs() -> dict[str, Any]:
    """What each of KubeRay's kinds says of its cluster."""
    job = manifest("RayJob")["spec"]
    return {"RayCluster": manifest("RayCluster")["spec"], "RayJob": job["rayClusterSpec"]}


def pods(spec: Any) -> list[Any]:
    """The pod specs of a cluster: the head's first."""
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def values(tree: Any, key: str) -> Iterator[Any]:
    """Everything that has a name, however deep."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(tree, list):
        for item in tree:
            yield from values(item, key)


def container_arguments() -> dict[str, str]:
    """Defaults of the ARGs of the Containerfile."""
    found = re.findall(r"^ARG (\w+)=(.*)$", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    return dict(found)


def shell_blocks(path: Path) -> list[str]:
    """The indented blocks of a Markdown file, which are commands."""
    text = path.read_text()
    blocks = re.findall(r"(?:^|\n\n)((?:    .*\n(?:\n(?=    ))?)+)", text)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]
