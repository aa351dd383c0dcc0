"""The local files that a submitted command line needs, and their names in the job.

Settings alone (and, if asked for, this program) are shipped: no data, no runs, no token.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dmeta
from dmeta.addresses import is_address
from dmeta.cli.settings.config_files import config_dir
from dmeta.cli.settings.presets import CONFIG_DIR_FLAGS, named_file, settings_in
from dmeta.quoting import as_override
from dmeta.training.byte_size import shown_bytes

_CONFIGS = "configs"


@dataclass(frozen=True)
class Shipment:
    """What is sent along with a job.

    Attributes:
        arguments: of the verb, which name the files where they will be.
        files: path in the job's own folder -> file on this machine.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, Path]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    def in_words(self) -> list[str]:
        """A line for each file with its size; one line for all of dmeta's own."""
        code = {to: path for to, path in self.files.items() if to.startswith("dmeta/")}
        lines = [
            f"{to}  {shown_bytes(path.stat().st_size)}  ({path})"
            for to, path in self.files.items()
            if to not in code
        ]
        if code:
            size = shown_bytes(sum(path.stat().st_size for path in code.values()))
            lines.append(f"dmeta/  {size}  ({len(code)} files of dmeta {dmeta.__version__})")
        return lines

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder, for this user alone, with exactly these files; gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="dmeta-submit-") as folder:
            for to, path in self.files.items():
                target = Path(folder) / to
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            yield Path(folder)


def shipment_of(arguments: Sequence[str], *, code: bool) -> Shipment:
    """What a command line needs.

    Args:
        arguments: of the verb; that there is what they name was checked.
        code: whether the program itself is shipped.

    Raises:
        ValueError: a folder of settings holds more than settings.
    """
    files: dict[str, Path] = {}
    moved: list[str] = []
    for before, word in itertools.pairwise(("", *arguments)):
        flag, equals, value = word.partition("=")
        there = word
        if before in CONFIG_DIR_FLAGS:
            files |= _settings_in(Path(word))
            there = _CONFIGS
        elif flag in CONFIG_DIR_FLAGS and equals:
            files |= _settings_in(Path(value))
            there = f"{flag}={_CONFIGS}"
        elif (named := named_file(word)) is not None and not is_address(named[1]):
            group, file = named
            to = Path(file).name if group == "experiment" else f"space/{Path(file).name}"
            files[to] = Path(file)
            there = as_override(group, to)
        moved.append(there)
    if code:
        files |= _code()
    return Shipment(tuple(moved), files)


def _settings_in(folder: Path) -> dict[str, Path]:
    found = settings_in(folder)
    if not found:
        raise ValueError(
            f"--config-dir must hold YAML files (*.yaml), got {folder} without any; correct it, or "
            "leave it out"
        )
    return {f"{_CONFIGS}/{name}": path for name, path in found.items()}


def _code() -> dict[str, Path]:
    """This program as an installed package has it: its settings inside."""
    package, settings = Path(dmeta.__file__).parent, config_dir()
    found = {
        f"dmeta/{path.relative_to(package)}": path
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    return found | {
        f"dmeta/configs/{path.relative_to(settings)}": path
        for path in sorted(settings.rglob("*.yaml"))
    }
