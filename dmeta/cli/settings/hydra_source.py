"""What is declared in code, as a place where Hydra finds configs: ``dmeta://``.

The configs of verbs (`verb_configs`) and of choices (`choices`) are made when Hydra asks for them,
so that only those that are chosen are read. YAML files are next to them in Hydra's search path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from dmeta.cli.settings.choices import Config, choice_of, choices_of
from dmeta.cli.settings.schema import GROUPS
from dmeta.cli.settings.verb_configs import hydra_settings, verb_config
from dmeta.cli.verbs import CONFIGURED

_SCHEME = "dmeta"
_VERBS = (*CONFIGURED, "submit")


class DeclaredSource(ConfigSource):
    """Configs of what is declared in code."""

    @staticmethod
    def scheme() -> str:
        """Of its address."""
        return _SCHEME

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether it is a group with choices."""
        return config_path == "" or bool(choices_of(config_path.rstrip("/")))

    def is_config(self, config_path: str) -> bool:
        """Whether it is a verb, or a choice."""
        group, _, name = _path(config_path).rpartition("/")
        return name in (choices_of(group) if group else _VERBS)

    def load_config(self, config_path: str) -> ConfigResult:
        """The config of a verb or a choice."""
        group, _, name = _path(config_path).rpartition("/")
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no config {config_path} is declared")
        content = _choice(group, name) if group else _verb(name)
        return ConfigResult(
            config=OmegaConf.create(content),
            path=f"{_SCHEME}://{self.path}",
            provider=self.provider,
            header={"package": "_global_"},
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Groups and configs in a group."""
        group = config_path.rstrip("/")
        configs = choices_of(group) if group else list(_VERBS)
        groups = [each for each in GROUPS if choices_of(each)] if not group else []
        found = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs}
        wanted = found.values() if results_filter is None else [found[results_filter]]
        return sorted({name for names in wanted for name in names})


class DeclaredSearchPath(SearchPathPlugin):
    """Adds `DeclaredSource` to every search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add it behind the YAML files."""
        search_path.append(provider="dmeta", path=f"{_SCHEME}://")


def register() -> None:
    """Let Hydra find it, in this process."""
    Plugins.instance().register(DeclaredSource)
    Plugins.instance().register(DeclaredSearchPath)


def _path(config_path: str) -> str:
    return config_path.removesuffix(".yaml").strip("/")


def _choice(group: str, name: str) -> dict[str, Any]:
    config = choice_of(group, name)
    overrides = [{f"override /{each}": chosen} for each, chosen in config.chosen.items()]
    return {"defaults": overrides, **nested(config)}


def _verb(verb: str) -> dict[str, Any]:
    own = verb_config(verb)
    assert own is not None
    defaults: list[Any] = [*own.defaults]
    defaults += [{f"override /{each}": chosen} for each, chosen in own.config.chosen.items()]
    if "train" not in own.defaults and verb != "submit":
        defaults.append({"override hydra/job_logging": "stdout"})
    return {"defaults": defaults, **nested(own.config), "hydra": dict(hydra_settings(verb))}


def nested(config: Config) -> dict[str, Any]:
    """Options with their defaults, and values of others, as groups in groups."""
    found: dict[str, Any] = {}
    flat: Mapping[str, Any] = {each.name: each.default for each in config.options}
    for key, value in {**flat, **config.values}.items():
        *path, last = key.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found
