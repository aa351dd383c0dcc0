"""Initial weights from a file (`model.init_from`): read, matched with the network, and put into it.

Only the driver reads the file: the weights are the initial meta-parameters, which the server holds.
What the file held decides the result, so its digest is one of the run's settings.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dmeta.addresses import is_address, local_path, open_address, parent_of, reading, within
from dmeta.models.network import Network
from dmeta.options import NamedOptions
from dmeta.runs.checkpoint import (
    META_PARAMS,
    STATE,
    last_checkpoint,
    open_checkpoints,
    steps_in,
)
from dmeta.runs.folder import RunPlace, run_place
from dmeta.runs.layout import CHECKPOINTS, CONFIG
from dmeta.training.config import RunConfig
from dmeta.training.frozen_weights import digest_of
from dmeta.training.init_options import init_options

_KEY = "model.init_from"
_NESTED = ("state_dict", "model")
"""Under which training programs put a network's state dict in a file with other things."""

_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""Of batch-norms, which take batch statistics here."""

_MOST_SHOWN = 8
_FEW = 2  # layers, such as the last one under its name here and there, or kinds of parameters


def with_initial_weights(config: RunConfig, network: Network) -> tuple[RunConfig, Network]:
    """Settings with the digest of the weights in `model.init_from`, and the network with them.

    Args:
        config: settings; without `model.init_from` nothing changes.
        network: its parameters are drawn from the seed.

    Raises:
        ValueError: the file cannot be read, is not the one that the run began with, or does not fit
            the network.
    """
    options = init_options(config.model)
    if options.init_from is None:
        for key, value in (
            ("init_skip", list(options.init_skip)),
            ("init_sha256", options.init_sha256),
        ):
            if value:
                raise ValueError(
                    f"model.{key} must not be set without {_KEY}, got {value}; set {_KEY}, or "
                    "remove it"
                )
        return config, network
    tensors = read_weights(options.init_from)
    found = digest_of(tensors)
    if options.init_sha256 not in (None, found):
        raise ValueError(
            f"{_KEY} must hold the weights that the run began with (SHA-256 "
            f"{options.init_sha256}), got {options.init_from} with {found}; set it to where they "
            "are now, or begin another run with model.init_sha256=null"
        )
    network = with_weights(network, tensors, options.init_skip, options.init_from)
    model = NamedOptions(config.model.name, {**config.model.options, "init_sha256": found})
    return dataclasses.replace(config, model=model), network


def with_weights(
    network: Network, tensors: Mapping[str, Tensor], skip: Iterable[str], where: str
) -> Network:
    """A copy of the network whose parameters have the values of the tensors.

    Args:
        network: left as it is.
        tensors: name -> values; those of batch-norms' running statistics are not needed.
        skip: patterns of names that are left out, of the network and of the tensors.
        where: the tensors are from.

    Raises:
        ValueError: names or shapes differ, or a value is not finite.
    """
    skip = tuple(skip)
    _check_patterns(skip, (*network.names, *tensors))
    wanted = {n: network.shape_of(n) for n in network.names if not _matches(n, skip)}
    given = {n: t for n, t in tensors.items() if not (n.endswith(_STATISTICS) or _matches(n, skip))}
    _check_names(wanted, given, where)
    if not wanted:
        raise ValueError(
            f"model.init_skip must leave a parameter to be read, got {list(skip)}, which leaves "
            f"out all; remove a pattern, or {_KEY}"
        )
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        for name in wanted:
            if not given[name].isfinite().all():
                raise ValueError(
                    f"{_KEY} must have finite weights, got NaN or infinity in {name} of {where}; "
                    "use another file"
                )
            module.get_parameter(name).copy_(given[name])
    return dataclasses.replace(network, module=module)


def _check_patterns(skip: Sequence[str], names: Iterable[str]) -> None:
    names = tuple(names)
    fitting = [pattern for pattern in skip if any(fnmatchcase(name, pattern) for name in names)]
    for pattern in skip:
        if pattern not in fitting:
            raise ValueError(
                "model.init_skip must be patterns of the names of parameters, of the network or of "
                f"the file, got {pattern!r}, which none has ({_shown(list(names))}); correct it, "
                f"or remove it: model.init_skip=[{','.join(fitting)}]"
            )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_names(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    other = [
        f"{name} {list(given[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of other shapes": other}
    if not any(problems.values()):
        return
    got = "; ".join(f"{kind}: {_shown(names)}" for kind, names in problems.items() if names)
    names = [*missing, *unexpected, *(text.partition(" ")[0] for text in other)]
    remedy = f"model.init_skip=[{_patterns_of(names, [n for n in wanted if n not in names])}]"
    raise ValueError(
        f"{_KEY} must have the network's parameters, got {where} ({got}); give a file of the same "
        f"network, or leave out what is to be drawn from the seed: {remedy}"
    )


def _patterns_of(names: Iterable[str], fitting: Sequence[str]) -> str:
    """Few patterns of the names that do not fit and of no other, or a placeholder.

    A kind of parameter that no name that fits is of (``*.alpha_scale``), else a layer (``head.*``).
    """
    known = {name.rpartition(".")[2] for name in fitting}
    split = [(layer, kind) for layer, _, kind in (name.rpartition(".") for name in names)]
    kinds = dict.fromkeys(kind for _, kind in split if known and kind not in known)
    layers = dict.fromkeys(layer for layer, kind in split if kind not in kinds)
    if max(len(kinds), len(layers)) > _FEW or not all(layers):
        return "PATTERN,..."
    return ",".join([*(f"*.{kind}" for kind in kinds), *(f"{layer}.*" for layer in layers)])


def _shown(names: list[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_weights(location: str) -> dict[str, Tensor]:
    """The tensors in a run's folder, one of its checkpoints, a safetensors file or a torch file.

    Args:
        location: path or URL.

    Returns: name -> tensor. Of a run, those of its network: what else its method learned is left
        out (names with a slash). Executes nothing that the file holds.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    name = location.rstrip("/").rpartition("/")[2]
    is_file = "." in name if is_address(location) else local_path(location).is_file()
    if is_file:
        return _read_file(location)
    if name.startswith("step-"):
        tensors = _read_file(within(location, STATE))
        found = {n.removeprefix(META_PARAMS): t for n, t in tensors.items() if META_PARAMS in n}
    else:
        found = read_run(location, _KEY)[1]
    return {name: tensor for name, tensor in found.items() if "/" not in name}


def read_run(location: str, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of a run, and the meta-parameters of its last checkpoint.

    Args:
        location: its folder, a path or URL.
        key: of the settings that names it, for messages.

    Raises:
        ValueError: it is none, or has no checkpoint.
    """
    with run_place(location) as place:
        if not (place.folder / CONFIG).exists():
            also = ", of a checkpoint, or a file of weights" if key == _KEY else ""
            raise ValueError(
                f"{key} must be the folder of a run{also}, got {location}, which is none; correct "
                "it"
            )
        elsewhere = None if place.mirror is None else within(place.name, CHECKPOINTS)
        storage = open_checkpoints(place.folder, elsewhere)
        steps = steps_in(storage)
        if not steps:
            also = ", or give the folder of one checkpoint (.../step-00001000)"
            raise ValueError(
                f"{key} must be a run with checkpoints in its folder, got none in {location}; "
                f"choose another{also if key == _KEY else ''}"
            )
        return _settings_of(place), last_checkpoint(storage, steps)[0].meta_params()


def _settings_of(place: RunPlace) -> dict[str, Any]:
    try:
        return dict(json.loads((place.folder / CONFIG).read_text())["settings"])
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise ValueError(
            f"{place.locate(CONFIG)} must be a run's settings, got {error!r}; it was altered or "
            "truncated: restore it, or choose another run"
        ) from None


def _read_file(location: str) -> dict[str, Tensor]:
    content = _content(location)
    try:
        loaded = _loaded(content, is_safetensors=location.endswith(".safetensors"))
    except Exception:  # torch raises whatever its reader runs into, a KeyError for a text
        raise ValueError(
            f"{_KEY} must be a .safetensors file or a torch file of a state dict (tensors alone), "
            f"got {location}, which is none; save it with "
            "torch.save(module.state_dict(), FILE)"
        ) from None
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    is_state = isinstance(loaded, Mapping) and all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in loaded.items()
    )
    if not is_state:
        raise ValueError(
            f"{_KEY} must hold a state dict (name -> tensor), got {type(loaded).__name__} in "
            f"{location}; save it with torch.save(module.state_dict(), FILE)"
        )
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}


def _loaded(content: bytes, *, is_safetensors: bool) -> Any:
    if is_safetensors:
        return safetensors.torch.load(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unusual pickle protocol
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _content(location: str) -> bytes:
    if not is_address(location):
        path: Path = local_path(location)
        if not path.is_file():
            raise ValueError(f"{_KEY} must be a file or folder, got no {path}; correct it")
        return path.read_bytes()
    folder, file = parent_of(location)
    with reading(location, _KEY):
        files, root = open_address(folder, _KEY)
        read: bytes = files.cat_file(f"{root.rstrip('/')}/{file}")
        return read
