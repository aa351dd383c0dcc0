"""The files of a new method, task or model, made from templates; writes nothing."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from string import Template

_TEMPLATES = Path(__file__).parent / "templates"
_SUMMARY, _SOURCE = "one line that says what it does", "who published it, and where"
_SIZES = '{"model": "mlp", "task.ways": 1, "task.shots": 10, "task.queries": 10}'
_REGISTRY_END = "    },\n)\n"


@dataclass(frozen=True)
class Piece:
    """What is new.

    Attributes:
        kind: ``algorithm``, ``task`` or ``model``.
        name: the name under which it is chosen, a Python identifier.
    """

    kind: str
    name: str

    @property
    def title(self) -> str:
        """The name in capitals, as classes are written."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    @property
    def factory(self) -> str:
        """What is registered: a class, or a model's function."""
        return self.name if self.kind == "model" else self.title

    @property
    def room(self) -> str:
        """The package of dmeta that things of this kind are in."""
        return f"{self.kind}s"

    @property
    def package(self) -> str:
        """Name of its own package, if it gets one."""
        return f"dmeta_{self.name}"

    @property
    def project(self) -> str:
        """Name of that package's project and folder."""
        return f"dmeta-{self.name.replace('_', '-')}"

    def registry_file(self, checkout: Path) -> Path:
        """Where a checkout registers things of this kind."""
        return checkout / "dmeta" / self.room / "__init__.py"

    def test_file(self, checkout: Path) -> Path:
        """Its test in a checkout."""
        return checkout / "tests" / self.room / f"test_{self.name}.py"

    def filled(self, template: str, *, entry_import: str = "") -> str:
        """The text of a template.

        Args:
            template: its file's name, without ``.txt``.
            entry_import: line that imports `dmeta.registry.Entry`, if it is needed.
        """
        text = (_TEMPLATES / f"{template}.txt").read_text()
        text = text.replace("$entry_import\n", entry_import)
        names = {each: getattr(self, each) for each in ("kind", "name", "title")}
        return Template(text).substitute(names, package=self.package, project=self.project)


def names_in_use(kind: str) -> set[str]:
    """Names that a new module of this kind uses itself: none of them may be its factory's."""
    tree = ast.parse(Piece(kind, "placeholder").filled(f"{kind}.py"))
    nodes = list(ast.walk(tree))
    return (
        {node.id for node in nodes if isinstance(node, ast.Name)}
        | {node.arg for node in nodes if isinstance(node, ast.arg)}
        | {node.name for node in nodes if isinstance(node, ast.alias)}
    )


def checkout_files(piece: Piece, checkout: Path) -> dict[Path, str]:
    """Path -> text of what is new in a checkout of dmeta, and of the registry that changes.

    Args:
        piece: what is new.
        checkout: its folder.

    Raises:
        ValueError: the registry's file has another form than dmeta's.
    """
    kind, name = piece.kind, piece.name
    registry = piece.registry_file(checkout)
    return {
        checkout / "dmeta" / piece.room / f"{name}.py": piece.filled(f"{kind}.py"),
        piece.test_file(checkout): piece.filled(f"{kind}_test.py"),
        registry: _with_line(piece, registry),
    }


def package_files(piece: Piece, folder: Path) -> dict[Path, str]:
    """Path -> text of a package of its own.

    Args:
        piece: what is new.
        folder: the project's folder.
    """
    module = piece.filled(f"{piece.kind}.py", entry_import="from dmeta.registry import Entry\n")
    sizes = f", {_SIZES}" if piece.kind == "task" else ""
    entry = f'\n\nENTRY = Entry({piece.factory}, "{_SUMMARY}", "{_SOURCE}"{sizes})\n'
    package = folder / piece.package
    return {
        folder / "pyproject.toml": piece.filled("pyproject.toml"),
        folder / "README.md": piece.filled("README.md"),
        package / "__init__.py": f'"""The {piece.kind} {piece.name} for dmeta."""\n',
        package / f"{piece.kind}.py": module + entry,
        folder / "tests" / f"test_{piece.name}.py": piece.filled(f"{piece.kind}_test.py"),
    }


def _with_line(piece: Piece, registry: Path) -> str:
    """The registry's file with a line more."""
    text = registry.read_text()
    target = f"dmeta.{piece.room}.{piece.name}:{piece.factory}"
    line = (
        f'        "{piece.name}": LazyEntry(\n            "{target}",\n'
        f'            "{_SUMMARY}",\n            "{_SOURCE}",\n'
    )
    if piece.kind == "task":
        line += f"            {_SIZES},\n"
    line += "        ),\n"
    if not text.endswith(_REGISTRY_END):
        raise ValueError(
            f"{registry} must end with the registry's entries, got something else; add to them\n"
            f"{line}"
        )
    return text.removesuffix(_REGISTRY_END) + line + _REGISTRY_END
