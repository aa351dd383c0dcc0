"""Keys of settings that earlier versions had under other names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dmeta.runtime.options import ComputeOptions

MOVED = {
    "outer.beta1": "outer.betas",
    "outer.beta2": "outer.betas",
    **{f"runtime.{key.name}": f"compute.{key.name}" for key in dataclasses.fields(ComputeOptions)},
}
"""Keys of earlier versions -> what they are called now."""


def refuse_moved(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if settings have a key under its earlier name; the message has the new."""
    for old, new in MOVED.items():
        group, _, key = old.partition(".")
        if isinstance(settings.get(group), Mapping) and key in settings[group]:
            raise ValueError(f"{old} is now called {new}; rename it")


def with_moved_keys(settings: Any) -> Any:
    """Settings that an earlier version wrote, under the keys of this one.

    What is not a group of settings is returned as it is, for `run_config` to refuse.
    """
    if not isinstance(settings, Mapping):
        return settings
    moved = {key: dict(v) if isinstance(v, Mapping) else v for key, v in settings.items()}
    outer = moved.get("outer")
    if isinstance(outer, dict) and "beta1" in outer:  # adam and sgd had the keys of both
        betas = [outer.pop("beta1"), outer.pop("beta2", 0.999)]
        momentum, eps = outer.pop("momentum", 0.0), outer.pop("eps", 1e-8)
        is_adam = outer.get("name") == "adam"
        outer |= {"betas": betas, "eps": eps} if is_adam else {"momentum": momentum}
    for old, new in MOVED.items():
        group, _, key = old.partition(".")
        if isinstance(moved.get(group), dict) and key in moved[group]:
            target = moved.setdefault(new.partition(".")[0], {})
            if isinstance(target, dict):
                target[key] = moved[group].pop(key)
    return moved
