"""Hydra: composes the settings of a verb, and runs a verb as a Hydra application.

With `errors`, the only module that imports Hydra.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dmeta.cli.config_files import config_dir
from dmeta.cli.expansion_limits import check_interpolations
from dmeta.cli.plugins import plugin_presets
from dmeta.cli.presets import check_run_dir, composed_with, own_presets
from dmeta.cli.trust import KEY, check_composed, check_presets, trusts


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

    overrides = _with_any_task(verb, overrides)
    presets = own_presets(overrides) if presets is None else presets
    check_presets(presets, trusted=trusts(overrides))
    with (
        _no_application(),
        _plugins_stored(),
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


@contextlib.contextmanager
def _plugins_stored() -> Iterator[None]:
    """Let Hydra find the presets of plug-ins, in addition to the files in its search path."""
    from hydra.core.config_store import ConfigStore

    store, presets = ConfigStore.instance(), plugin_presets()
    for (group, name), preset in presets.items():
        store.store(name, preset, group, package="_global_", provider="plug-in")
    try:
        yield
    finally:  # a later call may find other packages; what Hydra itself keeps there stays
        for group, name in presets:
            store.repo[group].pop(f"{name}.yaml", None)


def run_as_application(verb: str, function: Callable[[dict[str, Any], list[str]], None]) -> None:
    """Hand sys.argv to `@hydra.main`: overrides, --cfg, --help, -m and completion are Hydra's.

    Args:
        verb: name of the primary config.
        function: gets the composed settings, and the overrides that the user gave.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    failures: list[Exception] = []

    def task(config: Any) -> None:
        hydra_config = HydraConfig.get()
        try:
            settings = plain(config)
            check_composed(settings, presets, overrides)
            settings.pop(KEY, None)  # those who ask read what was typed
            if hydra_config.mode == RunMode.MULTIRUN and settings.get("run_dir", "") is None:
                settings["run_dir"] = hydra_config.runtime.output_dir
            function(settings, list(hydra_config.overrides.task))
        except Exception as error:  # the caller reports it once; the rest of a sweep runs
            failures.append(error)

    sys.argv[1:] = _with_any_task(verb, sys.argv[1:])
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    check_run_dir(sys.argv[1:])
    presets = own_presets(sys.argv[1:])
    check_presets(presets, trusted=trusts(overrides))
    # --config-dir is left to Hydra, which then tells where a key of the user's files comes from.
    with _plugins_stored(), composed_with(sys.argv[1:], presets) as arguments:
        sys.argv = [sys.argv[0], *arguments]
        hydra.main(config_path=str(config_dir()), config_name=verb, version_base="1.3")(task)()
    if failures:
        raise failures[0]


def _with_any_task(verb: str, arguments: Iterable[str]) -> list[str]:
    """The arguments of `dmeta evaluate` with its task as for the other verbs.

    Its settings have no task of their own to be changed: ``task=NAME`` is the key ``task.name``,
    and an option of whatever task it will be is added.
    """
    if verb != "evaluate":
        return list(arguments)
    known = "|".join(f"task.{key}" for key in ("name", "ways", "shots", "queries"))
    named = [re.sub(r"^task=", "task.name=", argument) for argument in arguments]
    return [re.sub(rf"^(?!({known})=)task\.", "+task.", argument) for argument in named]
