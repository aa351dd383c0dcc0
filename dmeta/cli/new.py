"""`dmeta new KIND NAME`: a small method, task or model that trains as it is, ready to fill in.

In a checkout of dmeta it becomes one of dmeta's own: a module, its registry line and a test.
Elsewhere it becomes a package that dmeta finds by its entry point.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dmeta.algorithms import ALGORITHMS
from dmeta.cli.scaffolding.files import Piece, checkout_files, names_in_use, package_files
from dmeta.cli.verbs import KINDS
from dmeta.models import MODELS
from dmeta.quoting import shell_word
from dmeta.registry import Registry, nearest, plugin_names
from dmeta.tasks import TASKS

NEW_USAGE = """usage: dmeta new algorithm|task|model NAME [--plugin] [--folder=FOLDER]

Writes a small example that trains as it is, ready to fill in; nothing is overwritten. In a checkout
of dmeta: the module, its registry line and a test. Elsewhere, or with --plugin: a package, in a new
folder dmeta-NAME, which dmeta finds once it is installed. --folder is where that folder goes
(default: the current one).
"""

_REGISTRIES: Mapping[str, Registry[Any]] = {
    "algorithm": ALGORITHMS,
    "task": TASKS,
    "model": MODELS,
}
_LONGEST = 40
_YAML_VALUES = ("null", "true", "false", "yes", "no", "on", "off", "nan", "inf")


class NewRequest(NamedTuple):
    """What is asked for.

    Attributes:
        kind: algorithm, task or model.
        name: of the new one.
        folder: where a package goes.
        is_package: whether it becomes a package even in a checkout.
    """

    kind: str
    name: str
    folder: Path
    is_package: bool


def new_command(arguments: Sequence[str]) -> int:
    """The verb: write the files and say what to try next; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(NEW_USAGE)
        return 0 if arguments else 2
    asked = _parsed(arguments)
    check_name(asked.kind, asked.name)
    piece = Piece(asked.kind, asked.name)
    checkout = None if asked.is_package else checkout_at(Path.cwd())
    if checkout is not None:
        _write(checkout_files(piece, checkout), replaced=piece.registry_file(checkout))
        test = piece.test_file(checkout).relative_to(checkout)
        _say_next([f"python -m pytest {test}"], piece, checkout)
        return 0
    if find_spec(piece.package) is not None:
        raise ValueError(
            f"{piece.package} must be a new package, got one that is installed; choose another name"
        )
    folder = asked.folder / piece.project
    _write(package_files(piece, folder))
    _say_next(["pip install -e '.[test]'", "python -m pytest"], piece, folder)
    return 0


def check_name(kind: str, name: str) -> None:
    """Check that something new of this kind can have the name.

    Raises:
        ValueError: it is not a lower-case identifier, or is taken.
    """
    if (
        not re.fullmatch(r"[a-z][a-z0-9_]*", name)
        or len(name) > _LONGEST
        or keyword.iskeyword(name)
        or name in _YAML_VALUES
    ):
        raise ValueError(
            f"NAME must be a lower-case Python identifier of at most {_LONGEST} characters, such "
            f"as my_{kind}, got {name!r}; change it"
        )
    if name in _REGISTRIES[kind].builtin or name in plugin_names(kind):
        raise ValueError(f"NAME must be new, got {name!r}, which is one already; choose another")
    factory = Piece(kind, name).factory
    if factory in names_in_use(kind):
        raise ValueError(
            f"NAME must differ from what the new module imports or uses ({factory}), got {name!r}; "
            "choose another"
        )


def checkout_at(folder: Path) -> Path | None:
    """The checkout of dmeta that a folder is in, if it is in one."""
    wanted = ("dmeta/registry.py", "pyproject.toml", "tests/__init__.py")
    for place in (folder, *folder.parents):
        if all((place / name).is_file() for name in wanted):
            return place
    return None


def _parsed(arguments: Sequence[str]) -> NewRequest:
    words = [word for word in arguments if not word.startswith("-")]
    flags = [word for word in arguments if word.startswith("-")]
    folders = [word.partition("=")[2] for word in flags if word.startswith("--folder=")]
    unknown = [word for word in flags if word != "--plugin" and not word.startswith("--folder=")]
    if words and words[0] not in KINDS:
        raise ValueError(
            f"dmeta new takes {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {words[0]!r}"
            f"{nearest(words[0], list(KINDS))}; name one"
        )
    if len(words) != 2 or unknown or not all(folders):
        raise ValueError(
            f"dmeta new takes KIND NAME, --plugin and --folder=FOLDER, got {' '.join(arguments)!r}"
        )
    is_package = "--plugin" in flags or bool(folders)
    return NewRequest(words[0], words[1], Path(folders[-1] if folders else "."), is_package)


def _write(files: Mapping[Path, str], replaced: Path | None = None) -> None:
    """Write the files, all or none.

    Args:
        files: path -> text.
        replaced: the only one that may exist.

    Raises:
        ValueError: one exists, or cannot be written.
    """
    if there := [path for path in files if path.exists() and path != replaced]:
        raise ValueError(f"{there[0]} must not exist yet; choose another name, or delete it")
    for path, text in files.items():
        is_new = path != replaced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise ValueError(
                f"{path.parent} must be a folder that can be written to, got {error}; choose "
                "another one with --folder=FOLDER"
            ) from None
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        print(f"{'wrote' if is_new else 'changed':9} {shown}")


def _say_next(commands: Sequence[str], piece: Piece, folder: Path) -> None:
    if folder.resolve() != Path.cwd():
        commands = [f"cd {shell_word(str(folder))}", *commands]
    train = f"dmeta train {piece.kind}={piece.name} runtime=local steps=200 eval.every=0"
    for heading, command in zip(("next", *[""] * len(commands)), [*commands, train], strict=True):
        print(f"{heading:9} {command}")
