"""Settings of every model: which weights it begins with. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dmeta.options import NamedOptions, checked


@dataclass(frozen=True)
class InitOptions:
    """Where the initial weights of a network come from.

    Attributes:
        init_from: a run's folder (its last checkpoint) or one checkpoint of it, a safetensors file,
            or a torch file of a state dict (path or URL); None: weights are drawn from the seed.
        init_skip: patterns of names, such as ``head.*``, of the network and of the file, that are
            not loaded: the network's are drawn from the seed.
        init_sha256: of the weights in ``init_from``; None: any. It is part of the run's settings.
    """

    init_from: str | None = None
    init_skip: tuple[str, ...] = ()
    init_sha256: str | None = None


INIT_KEYS = tuple(each.name for each in dataclasses.fields(InitOptions))


def init_options(model: NamedOptions) -> InitOptions:
    """Those among the options of a model.

    Raises:
        ValueError: one is of the wrong type.
    """
    given = {key: value for key, value in model.options.items() if key in INIT_KEYS}
    return checked(InitOptions, given, "model")


def without_init(model: NamedOptions) -> NamedOptions:
    """The options that are the model's own, which its factory takes."""
    own = {key: value for key, value in model.options.items() if key not in INIT_KEYS}
    return NamedOptions(model.name, own)
