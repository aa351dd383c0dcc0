"""A user's own YAML files that settings are composed with, in addition to those of dmeta.

``experiment=FILE.yaml`` and ``search/space=FILE.yaml`` name one (or its address), ``--config-dir
FOLDER`` a folder of them; ``experiment=RUN/config.json`` names the settings of a run. Their texts
can be kept, to compose the same settings later, or on a machine that does not have them.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dmeta.addresses import is_address, last_part, open_address, reading
from dmeta.cli.settings.expansion_limits import MAX_BYTES, check_yaml
from dmeta.cli.settings.quoted_arguments import text_of
from dmeta.cli.settings.run_preset import preset_of_run
from dmeta.quoting import as_text, is_null, unquoted
from dmeta.training.byte_size import shown_bytes

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
MULTIRUN_FLAGS = ("-m", "--multirun")

_PACKAGE = re.compile(r"\s*#\s*@package\s+(\S+)")

_SUFFIXES, _OF_A_RUN = (".yaml", ".yml"), ".json"
_GROUPS = {"experiment": (*_SUFFIXES, _OF_A_RUN), "search/space": _SUFFIXES}
"""Groups of which a file may be named -> how its name ends."""

_NOT_SETTINGS = ("runs", "multirun")
_MOST_BYTES = 10 * 2**20


def own_presets(arguments: Iterable[str]) -> dict[str, str]:
    """The files that a command line composes with: path in a folder of configs -> text.

    Args:
        arguments: overrides and flags.

    Raises:
        ValueError: a file that is named is not there, or not readable; or a folder holds more than
            settings.
    """
    found: dict[str, str] = {}
    arguments = list(arguments)
    folder = _config_dir(arguments)
    if folder is not None:  # that it is there is for Hydra to say
        for name, path in settings_in(folder).items():
            found[name] = _text(path, "--config-dir must be a folder of YAML files")
    for group, file in named_files(arguments).items():
        text = _text(file, f"{group} must be a preset's name or a YAML file")
        if last_part(file).endswith(_OF_A_RUN):
            text = preset_of_run(text, file)
        elif group == "experiment" and package_of(text) is None:
            text = f"# @package _global_\n{text}"  # what else could it be for?
        found[f"{group}/{_name_of(file)}.yaml"] = text
    return found


def package_of(text: str) -> str | None:
    """Where a file of settings says that Hydra is to put them, if it does."""
    found = map(_PACKAGE.match, text.splitlines())  # at other ends of lines than \n, too, as Hydra
    return next((match[1] for match in found if match), None)


def settings_in(folder: Path) -> dict[str, Path]:
    """The YAML files of a folder of configs: path in it -> file.

    Raises:
        ValueError: it holds more than settings.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))  # Hydra finds no others
        if path.is_file() and not _is_left_out(path.relative_to(folder))
    }
    size = sum(path.stat().st_size for path in found.values())
    if size > _MOST_BYTES:
        raise ValueError(
            f"--config-dir must hold settings of at most {shown_bytes(_MOST_BYTES)}, got {folder} "
            f"with {shown_bytes(size)} of YAML; choose a folder that holds only them"
        )
    return found


def named_files(overrides: Iterable[str]) -> dict[str, str]:
    """Group -> path or address of the file that ``group=`` names, where it names one."""
    return dict(found for each in overrides if (found := named_file(each)) is not None)


@contextlib.contextmanager
def composed_with(overrides: Iterable[str], presets: Mapping[str, str]) -> Iterator[list[str]]:
    """Overrides with which Hydra finds the files, as long as this lasts.

    Args:
        overrides: as on the command line; texts (`dmeta.quoting`) need no quotes.
        presets: `own_presets`, of now or of earlier.

    Raises:
        ValueError: a path that does not lie in a folder of configs, or a file that is too large,
            as it is or when all its references are expanded.
    """
    overrides = list(overrides)
    sweeps = any(flag in overrides for flag in MULTIRUN_FLAGS)
    found = [
        override if sweeps and _may_sweep(override) else as_text(override)
        for override in map(named, overrides)
    ]
    if not presets:
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, text in presets.items():
            path = Path(folder, name)
            if Path(name).is_absolute() or ".." in path.parts or path.suffix != ".yaml":
                raise ValueError(
                    f"a kept preset must be a YAML file in a folder of configs, got {name!r}; "
                    "restore the file that names it, or start a new search in another run_dir"
                )
            check_yaml(name, text)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        # Next to an override: argparse takes no two groups of them with a flag between.
        at = next((i for i, each in enumerate(found) if "=" in each and each[0] != "-"), len(found))
        yield [*found[:at], f"hydra.searchpath=[file://{folder}]", *found[at:]]


def _config_dir(arguments: list[str]) -> Path | None:
    """The folder that is named last, as argparse takes it."""
    folder: str | None = None
    for at, argument in enumerate(arguments):
        flag, is_joined, value = argument.partition("=")
        if flag in CONFIG_DIR_FLAGS:
            folder = value if is_joined else next(iter(arguments[at + 1 : at + 2]), None)
    return None if folder is None else Path(folder)


def _is_left_out(path: Path) -> bool:
    return path.parts[0] in _NOT_SETTINGS or any(part.startswith(".") for part in path.parts)


def named(override: str) -> str:
    """The preset of that file instead of the file."""
    found = named_file(override)
    return override if found is None else f"{found[0]}={_name_of(found[1])}"


def named_file(override: str) -> tuple[str, str] | None:
    """Group, and path or address of the file, if an override names one."""
    key, _, value = override.partition("=")
    if key not in _GROUPS:
        return None
    file = text_of(value, key)
    return (key, file) if file is not None and last_part(file).endswith(_GROUPS[key]) else None


def _name_of(file: str) -> str:
    """A name that no preset of ours has, in letters that Hydra takes."""
    return "file_" + re.sub(r"[^A-Za-z0-9_-]", "_", Path(last_part(file)).stem)


def check_run_dir(arguments: Sequence[str]) -> None:
    """Raises ValueError if several runs of a sweep (``-m``) would go into one folder."""
    if not any(flag in arguments for flag in MULTIRUN_FLAGS):
        return
    fixed = [
        each
        for each in arguments
        if each.partition("=")[0].lstrip("+") == "run_dir"
        and not (_may_sweep(each) or "${" in each or is_null(each.partition("=")[2]))
    ]
    several = [each for each in arguments if "=" in each and _may_sweep(each)]
    if fixed and several:
        raise ValueError(
            f"run_dir must be another one for each run of a sweep, got {fixed[-1]} for all of "
            f"{several[0]}; leave it out (each run gets a folder under multirun/), or name it by "
            "what differs, such as 'run_dir=runs/${seed}'"
        )


def _may_sweep(override: str) -> bool:
    """Whether a value without quotes may be several, for Hydra's ``-m``."""
    value = override.partition("=")[2]
    is_several = "," in value or re.match(r"\w+\(", value) is not None
    return is_several and unquoted(value) is None


def _text(path: str | Path, rule: str) -> str:
    if is_address(path):
        files, there = open_address(str(path), "experiment")
        with reading(str(path), "experiment"), files.open(there, "rb") as file:
            return bytes(file.read(MAX_BYTES + 1)).decode()
    try:
        with Path(path).open() as file:
            return file.read(MAX_BYTES + 1)  # a character more than is accepted
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{rule}, got {path}, which cannot be read ({error}); correct it (`dmeta list` names "
            "the presets)"
        ) from None
