"""The weights of other runs that a method learns from: read once, kept as constants of the run.

Only the driver reads them. They are among the meta-parameters that the server holds, and so in
every checkpoint. What they are decides the result: their digest is one of the run's settings, where
they lie is not part of its fingerprint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dmeta.algorithms.algorithm import HasTeachers
from dmeta.options import NamedOptions
from dmeta.training.config import RunConfig
from dmeta.training.frozen_weights import digest_of
from dmeta.training.init_options import INIT_KEYS
from dmeta.training.initial_weights import read_run

_KEY, _SHA256 = "algorithm.teachers", "teachers_sha256"


def with_teachers(config: RunConfig, algorithm: HasTeachers) -> tuple[RunConfig, dict[str, Tensor]]:
    """Settings with the digest of the teachers, and the values of the constants they make.

    Args:
        config: settings.
        algorithm: the method.

    Raises:
        ValueError: a teacher cannot be read, has another network, or is not that which the run
            began with.
    """
    found = []
    for location in algorithm.teachers:
        settings, meta_params = read_run(location, _KEY)
        _check_model(config, settings, location)
        found.append(meta_params)
    values = algorithm.teacher_constants(found)
    for name, value in values.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{_KEY} must have finite weights, got NaN or infinity in {name}; give other runs"
            )
    digest = digest_of(values)
    options = config.algorithm.options
    if options.get(_SHA256) not in (None, digest):
        raise ValueError(
            f"{_KEY} must be the runs that this one began with (SHA-256 {options[_SHA256]}), got "
            f"others ({digest}); set it to where they are now, or begin another run with "
            f"algorithm.{_SHA256}=null"
        )
    noted = NamedOptions(config.algorithm.name, {**options, _SHA256: digest})
    return dataclasses.replace(config, algorithm=noted), values


def _check_model(config: RunConfig, settings: Mapping[str, Any], location: str) -> None:
    """Raises ValueError if a teacher's network computes something else than the run's."""
    plain = config.as_mapping()
    for key in ("model", "batch_norm"):
        own, its = plain[key], settings.get(key)
        if isinstance(own, Mapping) and isinstance(its, Mapping):
            own, its = ({k: v for k, v in m.items() if k not in INIT_KEYS} for m in (own, its))
        if own != its:
            differing = [key] if not isinstance(own, dict) or not isinstance(its, dict) else [
                f"{key}.{k}" for k in sorted({*own, *its}) if own.get(k) != its.get(k)
            ]  # fmt: skip
            raise ValueError(
                f"each of {_KEY} must have the network of this run, got {location} of another "
                f"(different: {', '.join(differing)}); give the same settings, or another run"
            )
