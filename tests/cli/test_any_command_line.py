"""Whatever is typed or found in a run's folder: settings, or one message; nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmeta.cli.errors import format_error
from dmeta.cli.saved_run import SavedRun, read_saved
from dmeta.cli.settings.choices import choices_of
from dmeta.cli.settings.hydra_app import compose
from dmeta.runs.folder import RunPlace
from dmeta.training.config import RunConfig, run_config
from dmeta.training.setup import prepare
from tests.conftest import tiny_config


def keys_of(group: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in group.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


KEYS = sorted(keys_of(compose("train", [])))
CHOICES = [
    f"{group}={name}"
    for group in ("algorithm", "gradient", "model", "outer", "runtime")
    for name in choices_of(group)
]
# Sizes that are tried are small, or so large that no machine has the memory.
NUMBERS = (
    st.integers(-3, 12).map(str)
    | st.integers(10**15, 10**40).map(str)
    | st.floats().map(repr)
    | st.sampled_from(["1e400", "-1e400", "0x10", "1_000", "--1", "1.5.2"])
)
NAMES = ["null", "true", "auto", "adam", "head", "none", "cuda", "'a b'", '"ä"', ""]
GRAMMAR = ["[]", "{}", "[1,a]", "[[[1]]]", "{a:{b:1}}", "choice(1,2)", "range(3)", "int(x)", "???"]
BROKEN = ["${", "${seed}", "${nothing}", "${oc.env:NO}", "'", '"', "\\", "a=b", "1,2", "@", "$"]
WORDS = st.sampled_from([*NAMES, *GRAMMAR, *BROKEN])
VALUES = NUMBERS | WORDS | st.text(max_size=6)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A key with a letter more, less or other."""
    key = draw(st.sampled_from(KEYS))
    place = draw(st.integers(0, len(key)))
    return key[:place] + draw(st.text(max_size=1)) + key[place + draw(st.integers(0, 1)) :]


PREFIXES = st.sampled_from(["", "", "", "", "+", "++", "~"])
OVERRIDES = (
    st.builds("{}{}={}".format, PREFIXES, st.sampled_from(KEYS) | mutated(), VALUES)
    | st.sampled_from(CHOICES)
    | st.text(max_size=8)
)


def is_cheap(config: RunConfig) -> bool:
    """Whether trying the model takes a moment."""
    layers = config.model.options.get("num_layers", 0)
    return config.task.source.name == "sinusoid" and isinstance(layers, int) and layers <= 12


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(overrides=st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_overrides_make_a_run_or_one_message(overrides: list[str]) -> None:
    try:
        config = run_config(compose("train", overrides))
        if is_cheap(config):
            prepare(config)
    except Exception as error:
        message, code = format_error(error, "train", overrides)
        assert code == 2, f"{overrides}: {message}"
        assert message.strip()
        assert "Traceback" not in message


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """What a run writes into its config.json."""
    config = tiny_config("run")
    shapes = {"kind": "regression", "input_shape": [1], "num_outputs": 1}
    plain = {
        "fingerprint": config.fingerprint(),
        "settings": config.as_mapping(),
        "shapes": shapes,
    }
    result: dict[str, Any] = json.loads(json.dumps(plain))
    return result


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def read_back(content: bytes) -> SavedRun | None:
    """What is read from a config.json of this content; None: it is refused by its name."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(content)
        with contextlib.suppress(ValueError):
            return read_saved(RunPlace(Path(folder)))
        with pytest.raises(ValueError, match=r"config\.json must be a run's settings"):
            read_saved(RunPlace(Path(folder)))
    return None


def test_saved_settings_are_read_back(saved: dict[str, Any]) -> None:
    again = read_back(json.dumps(saved).encode())
    assert again is not None
    assert again.config == tiny_config("run")
    assert again.shapes.input_shape == (1,)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_saved_settings_with_any_other_value_are_read_or_refused(
    saved: dict[str, Any], data: st.DataObject
) -> None:
    content = copy.deepcopy(saved)
    path = data.draw(st.sampled_from(sorted(keys_of(content)))).split(".")
    group = content
    for key in path[:-1]:
        group = group[key]
    group[path[-1]] = data.draw(JSON)
    again = read_back(json.dumps(content).encode())
    if again is not None:  # then it can be written once more, and is the same
        assert run_config(again.config.as_mapping()) == again.config


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_saved_run_is_refused(content: bytes) -> None:
    assert read_back(content) is None
