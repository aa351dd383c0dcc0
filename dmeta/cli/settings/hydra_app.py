"""Hydra: composes the settings of a verb, of one run or of all that a command line asks for.

Hydra only composes: what it would run is returned as jobs, which the command line runs itself.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dmeta.cli.help import HELP_FLAGS, help_text
from dmeta.cli.settings.choices import options_named
from dmeta.cli.settings.config_files import config_dir
from dmeta.cli.settings.expansion_limits import check_interpolations
from dmeta.cli.settings.presets import check_run_dir, composed_with, own_presets
from dmeta.cli.settings.schema import settings_of
from dmeta.cli.settings.trust import KEY, check_composed, check_presets, trusts


def plain(config: Any, *, complete: bool = True) -> dict[str, Any]:
    """A Hydra config as nested dicts, every reference resolved.

    Args:
        config: Hydra's.
        complete: whether every key that must be given has to be there.

    Raises:
        ValueError: its interpolations would make it too large.
        omegaconf.MissingMandatoryValue: a key that must be given was not.
    """
    from omegaconf import OmegaConf

    check_interpolations("the settings", OmegaConf.to_container(config, resolve=False))
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def compose(
    verb: str,
    overrides: Iterable[str],
    *,
    complete: bool = True,
    presets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The settings of a verb with overrides, as the command line would compose them.

    Args:
        verb: name of the primary config.
        overrides: as on the command line.
        complete: whether every key that must be given has to be there.
        presets: the user's own, if they were read before (`presets.own_presets`).

    Raises:
        hydra.errors.HydraException: an override that does not fit (see `errors.explain`).
    """
    import hydra

    from dmeta.cli.settings import hydra_source

    hydra_source.register()
    overrides = list(overrides)
    _check_removed(verb, overrides)
    overrides = _with_any_task(verb, overrides)
    presets = own_presets(overrides) if presets is None else presets
    check_presets(presets, trusted=trusts(overrides))
    with (
        _no_application(),
        composed_with(overrides, presets) as found,
        hydra.initialize_config_dir(str(config_dir()), version_base="1.3"),
    ):
        settings = plain(hydra.compose(verb, overrides=found), complete=complete)
    check_composed(settings, presets, overrides)
    settings.pop(KEY, None)
    return settings


@contextlib.contextmanager
def _no_application() -> Iterator[None]:
    """Forget the Hydra application that may be running, for which nothing else can be composed."""
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    running, instance.hydra = instance.hydra, None
    try:
        yield
    finally:
        instance.hydra = running


class Job(NamedTuple):
    """One of the runs that a command line asks for: several, if it sweeps (``-m``).

    Attributes:
        settings: composed.
        overrides: that the user gave.
        environment: variables that Hydra's ``hydra.job.env_set`` sets.
    """

    settings: dict[str, Any]
    overrides: list[str]
    environment: dict[str, str]


def composed_jobs(verb: str, words: Sequence[str]) -> list[Job]:
    """Compose a command line as a Hydra application does: overrides, --cfg, -m and completion.

    Args:
        verb: the verb.
        words: what follows it.

    Returns: none, if the command line was a question (``--help``, ``--cfg``), which is answered.

    Raises:
        ValueError: a key or value that does not fit, of any of the runs.
        hydra.errors.HydraException: likewise (see `errors.explain`).
    """
    if any(word in HELP_FLAGS for word in words):
        typed = [word for word in words if "=" in word and not word.startswith("-")]
        settings = compose(verb, typed, complete=False)
        sys.stdout.write(help_text(verb, typed, settings))
        return []
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dmeta.cli.settings import hydra_source

    jobs: list[Job] = []
    failures: list[Exception] = []

    def keep(config: Any) -> None:
        hydra_config = HydraConfig.get()
        try:
            settings = plain(config)
            check_composed(settings, presets, overrides)
            settings.pop(KEY, None)  # those who ask read what was typed
            if hydra_config.mode == RunMode.MULTIRUN and settings.get("run_dir", "") is None:
                settings["run_dir"] = hydra_config.runtime.output_dir
            environment = {key: str(value) for key, value in hydra_config.job.env_set.items()}
            jobs.append(Job(settings, list(hydra_config.overrides.task), environment))
        except Exception as error:  # raised below: Hydra prints what it catches
            failures.append(error)

    _check_launcher(words)
    _check_removed(verb, words)
    words = _with_any_task(verb, words)
    overrides = [word for word in words if not word.startswith("-")]
    check_run_dir(words)
    presets = own_presets(words)
    check_presets(presets, trusted=trusts(overrides))
    hydra_source.register()
    # --config-dir is left to Hydra, which then tells where a key of the user's files comes from.
    with composed_with(words, presets) as arguments, _command_line(arguments):
        hydra.main(config_path=str(config_dir()), config_name=verb, version_base="1.3")(keep)()
    if failures:
        raise failures[0]
    return jobs


@contextlib.contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """These words in `sys.argv`, where Hydra reads them."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def _check_launcher(words: Iterable[str]) -> None:
    """Refuse what would compose the runs of a sweep in other processes, where none is kept."""
    if other := [word for word in words if re.match(r"\+*hydra/launcher=(?!basic$)", word)]:
        raise ValueError(
            f"hydra/launcher must be basic, got {other[0]}, whose processes would get nothing to "
            "run; leave it out (many runs at once: dmeta tune, or dmeta submit)"
        )


def _check_removed(verb: str, words: Iterable[str]) -> None:
    """Refuse to remove a key, which would have another default then than the one that is shown."""
    words = list(words)
    removed = [word[1:].partition("=")[0] for word in words if word.startswith("~")]
    known = settings_of(verb, words).keys if removed else {}
    for key in removed:
        if key in known:
            raise ValueError(f"{key} must not be removed, got ~{key}; set it to another value")


def _with_any_task(verb: str, arguments: Iterable[str]) -> list[str]:
    """The arguments of `dmeta evaluate` with its task as for the other verbs.

    Its settings have no task of their own to be changed: ``task=NAME`` is the key ``task.name``,
    and an option of whatever task it will be is added.
    """
    if verb != "evaluate":
        return list(arguments)
    sizes = [each.name for each in options_named("tasks.source:EpisodeSize")]
    known = "|".join(f"task.{key}" for key in ("name", *sizes))
    named = [re.sub(r"^task=", "task.name=", argument) for argument in arguments]
    return [re.sub(rf"^(?!({known})=)task\.", "+task.", argument) for argument in named]
