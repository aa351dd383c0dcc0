"""Imports point one way: `may import` below, read from the source without running it.

bilevel, models, metrics <- algorithms, tasks, runtime, runs <- training <- inference <- search
<- reports <- bench <- cli
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dmeta

PACKAGE = Path(dmeta.__file__).parent

_SHARED = {
    "registry",
    "randomness",
    "quoting",
    "addresses",
    "capacity",
    "formatting",
    "options",
    "declared",
    "typed_values",
    "torchvision_compat",
}

# room -> other rooms that it may import. `front` is the package itself: __init__ and __main__.
MAY_IMPORT: dict[str, set[str]] = {
    "registry": set(),
    "randomness": set(),
    "quoting": set(),
    "addresses": set(),
    "capacity": set(),
    "formatting": {"quoting", "addresses"},
    "declared": set(),
    "typed_values": set(),
    "torchvision_compat": set(),
    "options": {"registry", "declared", "typed_values"},
    "metrics": {"registry", "formatting", "torchvision_compat", "bilevel"},
    "bilevel": {"registry", "randomness", "options"},
    "models": {"registry", "randomness", "options", "torchvision_compat"},
    "algorithms": {
        "registry",
        "randomness",
        "options",
        "declared",
        "typed_values",
        "bilevel",
        "models",
    },
    "tasks": {
        "registry",
        "addresses",
        "options",
        "declared",
        "bilevel",
        "capacity",
        "torchvision_compat",
        "metrics",
    },
    "runtime": {"registry", "capacity", "options"},
    "runs": {"addresses", "quoting", "formatting", "runtime", "metrics"},
}
MAY_IMPORT["training"] = _SHARED - {"formatting"} | {
    "bilevel",
    "models",
    "algorithms",
    "tasks",
    "runtime",
    "runs",
    "metrics",
}
MAY_IMPORT["inference"] = MAY_IMPORT["launch"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["search"] = MAY_IMPORT["launch"] | {"launch"}
MAY_IMPORT["functional"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["meta_learner"] = MAY_IMPORT["functional"] | {"functional"}
MAY_IMPORT["reports"] = MAY_IMPORT["search"] | {"search", "inference"}
MAY_IMPORT["bench"] = MAY_IMPORT["search"] | {"reports"}
MAY_IMPORT["cli"] = MAY_IMPORT["reports"] | {"reports", "bench", "formatting", "front"}
MAY_IMPORT["front"] = MAY_IMPORT["cli"] | {"cli", "functional", "meta_learner"}

# What others see of the runtime: plain types and how gradients are added, not who computes.
SEEN_OF_RUNTIME = {
    "training": {"protocol", "messages", "options", "blocks", "reduction"},
    "reports": {"messages"},
    "functional": {"messages"},
    "meta_learner": set(),
    "runs": {"messages"},
}

# Library -> rooms that may import it. Of the runtime only two of its folders.
LIBRARIES: dict[str, set[str]] = {
    "ray": {"runtime.ray", "runtime.cluster", "search"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "matplotlib": {"reports", "bench"},
    "plotly": {"reports"},
    "jinja2": {"reports"},
}


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, and where."""

    target: str
    line: int


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Every import in `source`, the text of the file of `module` (a package ends in __init__)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            yield from (Import(f"{base}.{a.name}", node.lineno) for a in node.names)
        if isinstance(node, ast.Call) and _is_import_call(node):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield Import(argument.value, node.lineno)


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__") and bool(node.args)


def room_of(module: str) -> str:
    """The room of a dotted name in the package: ``dmeta.tasks.source`` is in ``tasks``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "front"


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of one file, a line each."""
    room, found = room_of(module), []
    for seen in imports_of(source, module):
        where = f"{module}:{seen.line} imports {seen.target}"
        library = seen.target.partition(".")[0]
        if (
            library in LIBRARIES
            and not {room, ".".join(module.split(".")[1:3])} & LIBRARIES[library]
        ):
            found.append(f"{where}: {library} is for {sorted(LIBRARIES[library])}")
        if library != "dmeta":
            continue
        target = room_of(seen.target)
        if target not in MAY_IMPORT[room] | {room}:
            found.append(f"{where}: {room} may import {sorted(MAY_IMPORT[room])}")
        part = [*seen.target.split("."), "", ""][2]
        if target == "runtime" and part not in SEEN_OF_RUNTIME.get(room, {part}):
            found.append(f"{where}: {room} sees {sorted(SEEN_OF_RUNTIME[room])} of runtime")
    return found


def module_of(path: Path) -> str:
    return ".".join(("dmeta", *path.relative_to(PACKAGE).with_suffix("").parts))


FILES = sorted(PACKAGE.rglob("*.py"))


def test_imports_point_one_way() -> None:
    assert len(FILES) > 200
    texts = {module_of(path): path.read_text(encoding="utf-8") for path in FILES}
    assert [each for module, text in texts.items() for each in violations(text, module)] == []


def test_every_file_is_in_a_known_room() -> None:
    known = set(MAY_IMPORT) - {"front"} | {"__init__", "__main__"}
    assert {module_of(path).split(".")[1] for path in FILES} <= known
    assert {"bilevel", "models", "algorithms", "tasks", "runtime", "training"} <= {
        room_of(module_of(path)) for path in FILES
    }


def test_no_two_rooms_import_each_other() -> None:
    """The front excepted: it holds the version, and hands out the commands when asked."""
    for room in MAY_IMPORT.keys() - {"front"}:
        for other in MAY_IMPORT[room] - {"front"}:
            assert room not in MAY_IMPORT[other], (room, other)


def test_the_checker_sees_the_imports_that_are_there() -> None:
    """Were it blind, everything would pass."""
    seen = {
        (room_of(module_of(path)), room_of(found.target))
        for path in FILES
        for found in imports_of(path.read_text(encoding="utf-8"), module_of(path))
        if found.target.startswith("dmeta.")
    }
    assert {
        ("algorithms", "bilevel"),
        ("training", "runtime"),
        ("training", "runs"),
        ("reports", "search"),
        ("cli", "reports"),
    } <= seen


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dmeta.bilevel.inner", "import dmeta.models"),
        ("dmeta.models.mlp", "from dmeta.bilevel.types import Params"),
        ("dmeta.algorithms.maml", "from dmeta.tasks.source import TaskSource"),
        ("dmeta.tasks.sinusoid", "from dmeta import runtime"),
        ("dmeta.tasks.sinusoid", "from ..algorithms import ALGORITHMS"),
        ("dmeta.tasks.__init__", "from ..training import loop"),
        ("dmeta.runtime.local", "def late():\n    from dmeta.training.work.worker import TaskWork"),
        ("dmeta.runtime.local", "if TYPE_CHECKING:\n    from dmeta.bilevel.flat import Layout"),
        ("dmeta.training.loop", "from dmeta.runtime.ray.runtime import RayRuntime"),
        ("dmeta.training.loop", "from dmeta.runtime import make_runtime"),
        ("dmeta.training.loop", "import dmeta.runtime"),
        ("dmeta.training.loop", "import ray"),
        ("dmeta.training.config", "from hydra.core.config_store import ConfigStore"),
        ("dmeta.training.config", "importlib.import_module('omegaconf')"),
        ("dmeta.training.loop", "import dmeta"),
        ("dmeta.runs.status", "def late():\n    from hydra.errors import HydraException"),
        ("dmeta.search.space", "import dmeta.cli.train"),
        ("dmeta.bench.gradients", "from dmeta.cli.terminal.display import Display"),
        ("dmeta.bench.gradients", "import ray"),
        ("dmeta.bench.gradients", "import plotly.graph_objects"),
        ("dmeta.cli.tune", "from jinja2 import Template"),
        ("dmeta.registry", "from dmeta.bilevel.types import Params"),
        ("dmeta.addresses", "from dmeta.registry import Registry"),
        ("dmeta.quoting", "from omegaconf import OmegaConf"),
    ],
)
def test_the_checker_catches_a_violation(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dmeta.algorithms.maml", "from dmeta.bilevel.types import Params"),
        ("dmeta.tasks.sinusoid", "from .source import TaskSource"),
        ("dmeta.training.loop", "from dmeta.runtime import blocks"),
        ("dmeta.runtime.ray.actors", "import ray"),
        ("dmeta.models.mlp", "import rayon, hydrants"),
    ],
)
def test_the_checker_lets_the_rest_pass(module: str, source: str) -> None:
    assert violations(source, module) == []
