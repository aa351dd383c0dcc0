"""What a file from someone else may make this program do: nothing that leaves this machine.

The settings in a run's ``config.json``, and in YAML files (``experiment=FILE.yaml``,
``--config-dir``), can name addresses, which would be contacted with this user's credentials; YAML
files can also read the environment (``${oc.env:...}``), and have Hydra call things (``hydra:``,
``_target_``). All of that is shown and refused, unless ``trust=true`` is given.

Trusted without it: what was typed on the command line or given from Python, what DMETA_DATA says,
the files of this package, and of a run at an address what is within that address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import yaml

from dmeta.addresses import is_address, redacted
from dmeta.cli.settings.choices import DATA_ROOT
from dmeta.cli.settings.presets import package_of
from dmeta.cli.settings.quoted_arguments import text_of

KEY = "trust"

_RESOLVER = re.compile(r"\$\{[^}]*[:$]")
"""An interpolation that calls something, or may be made to: ``${oc.env:HOME}``, ``${${a}:b}``."""

"""Of the presets of tasks here, which users copy."""

_MOST_SHOWN = 5


def trusts(overrides: Iterable[str]) -> bool:
    """Whether ``trust=true`` is among the overrides; the last one counts.

    Raises:
        ValueError: it is neither true nor false.
    """
    said = "false"
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.lstrip("+") == KEY:
            said = str(text_of(value, KEY)).lower()
    if said not in ("true", "false"):
        raise ValueError(f"{KEY} must be true or false, got {said}; choose one")
    return said == "true"


def trusting(trust: bool) -> list[str]:
    """The override that says so."""
    return [f"{KEY}=true"] if trust else []


def check_presets(presets: Mapping[str, str], *, trusted: bool) -> None:
    """Check YAML files of the user's, before anything in them is resolved.

    Args:
        presets: path in a folder of configs -> text.
        trusted: by ``trust=true``.

    Raises:
        ValueError: they call something and are not trusted.
    """
    if trusted:
        return
    for name, text in presets.items():
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            reason = str(getattr(error, "problem", None) or type(error).__name__)
            raise ValueError(
                f"the file of settings {name} must be YAML, got another text ({reason}); correct it"
            ) from None
        found = [f"{key}={value}" for key, value in _texts(content) if _calls(key, value)]
        if _is_hydras(name) or _is_hydras(package_of(text) or ""):
            found.append(f"settings of Hydra's own in {name}")
        if found:
            raise _refused(f"the file of settings {name}", "call nothing", found)


def check_composed(
    settings: Mapping[str, Any], presets: Mapping[str, str], overrides: Iterable[str]
) -> None:
    """Check settings that files of the user's had a part in.

    Args:
        settings: composed.
        presets: the files.
        overrides: as typed.

    Raises:
        ValueError: the files name an address and are not trusted.
    """
    overrides = list(overrides)
    if not presets or trusts(overrides):
        return
    found = _addresses(settings, {o.partition("=")[0].lstrip("+") for o in overrides})
    if found:
        raise _refused(f"the file of settings {', '.join(presets)}", "name no address", found)


def check_saved(
    settings: Mapping[str, Any],
    run_dir: str,
    *,
    typed: Collection[str] = (),
    only: Collection[str] | None = None,
) -> None:
    """Check the settings of a run that is not trusted.

    Args:
        settings: of its config.json, with what was typed in place of it.
        run_dir: path or address of the run.
        typed: keys that were typed.
        only: keys that are used; None: all.

    Raises:
        ValueError: they name an address elsewhere.
    """
    found = _addresses(settings, typed, run_dir, only)
    if found:
        raise _refused(f"the settings of the run {run_dir}", "name no address elsewhere", found)


def trust_word(settings: Mapping[str, Any], run_dir: str) -> str:
    """What a command has to say besides to go on with a run that was trained here just now."""
    return f" {KEY}=true" if _addresses(settings, (), run_dir) else ""


def _calls(key: str, value: str) -> bool:
    """Whether Hydra or OmegaConf may call something for this part of a file."""
    if value == DATA_ROOT:
        return False
    chosen = value if key.rpartition(".")[2] == "defaults" else ""
    return _RESOLVER.search(value) is not None or _is_hydras(f"{key} {chosen}")


def _is_hydras(name: str) -> bool:
    return not {"hydra", "_target_"}.isdisjoint(re.split(r"[./@: ]", name))


def _refused(what: str, rule: str, found: list[str]) -> ValueError:
    more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return ValueError(
        f"{what} must {rule} unless they are trusted, got {'; '.join(found[:_MOST_SHOWN])}{more}, "
        "which would be used with your rights and credentials; if you wrote them, or trust who "
        f"did, add {KEY}=true (from Python: {KEY}=True), or give the keys themselves"
    )


def _addresses(
    settings: Mapping[str, Any],
    typed: Collection[str],
    run_dir: str | None = None,
    only: Collection[str] | None = None,
) -> list[str]:
    """``key=address`` of all that are not trusted."""
    return [
        f"{key}={redacted(value)}"
        for key, value in _texts(settings)
        if is_address(value)
        and key not in typed
        and (run_dir is None or key != "run_dir")  # where the run was; where it is was typed
        and (only is None or key in only)
        and value != os.environ.get("DMETA_DATA")
        and not (run_dir is not None and _is_within(value, run_dir))
    ]


def _is_within(address: str, run_dir: str) -> bool:
    """Whether an address is in the folder of a run at an address, asked for in the same way."""
    path, _, query = address.partition("?")
    own, _, own_query = run_dir.partition("?")
    rest = path.removeprefix(own.rstrip("/"))
    return (
        is_address(run_dir)
        and query == own_query
        and path.startswith(own.rstrip("/"))
        and rest[:1] in ("", "/")
        and not re.search(r"::|\.\.|%|//", rest)
    )


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Every text in nested plain data with its key, keys as well; each part once."""
    seen: set[int] = set()

    def walk(value: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            named = isinstance(value, Mapping)
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, inner in items:
                yield from walk(inner, f"{key}.{name}".lstrip(".") if named else key)
                if named:
                    yield from walk(str(name), key)

    yield from walk(content, "")
