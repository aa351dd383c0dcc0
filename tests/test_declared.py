"""Options that are read from a source are those of the imported object."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.transforms import TRANSFORMS
from dmeta.cli.verbs import BENCHES
from dmeta.declared import (
    PROVIDED,
    REQUIRED,
    NotReadableError,
    declared_options,
    documented,
)
from dmeta.models import MODELS
from dmeta.options import default_options
from dmeta.registry import LazyEntry
from dmeta.tasks import TASKS
from dmeta.tasks.augmentation import AUGMENTATIONS
from dmeta.training.outer.optimizers import arguments_of
from dmeta.training.outer.torch_optimizers import NOT_OPTIONS, OPTIMIZERS, OptimizerName

DATACLASSES = (
    "dmeta.training.config:RunConfig",
    "dmeta.training.config:EvalOptions",
    "dmeta.training.config:CheckpointOptions",
    "dmeta.training.outer.options:OuterOptions",
    "dmeta.runtime.options:ComputeOptions",
    "dmeta.runtime.options:RuntimeOptions",
    "dmeta.search.options:SearchOptions",
    "dmeta.tasks.source:EpisodeSize",
    "dmeta.cli.evaluate:EvaluateConfig",
    "dmeta.cli.embed:EmbedConfig",
    "dmeta.cli.replay:ReplayConfig",
    "dmeta.cli.jobs.submission:SubmitOptions",
    *(f"dmeta.bench.{name}:{name.capitalize()}Options" for name in BENCHES),
)


def entries() -> Iterator[tuple[str, LazyEntry]]:
    for registry in (ALGORITHMS, AUGMENTATIONS, ESTIMATORS, MODELS, TASKS, TRANSFORMS):
        for name, entry in registry.builtin.items():
            if isinstance(entry, LazyEntry) and not entry.is_ready:
                yield f"{registry.kind}={name}", entry


TARGETS = {name: entry.target for name, entry in entries()}


def found(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def test_every_entry_is_looked_at_before_one_is_imported() -> None:
    assert len(TARGETS) > 25


@pytest.mark.parametrize("name", TARGETS)
def test_a_factorys_options_are_those_of_its_signature(name: str) -> None:
    declared = [each for each in declared_options(TARGETS[name]) if each.name not in PROVIDED]
    expected = default_options(found(TARGETS[name]))
    assert {each.name: each.default for each in declared} == expected
    types = {each.name: (type(each.default), type(expected[each.name])) for each in declared}
    assert [name for name, (one, other) in types.items() if one is not other] == []
    assert [each.name for each in declared if not each.help] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_options_are_those_of_torch(name: OptimizerName) -> None:
    declared = declared_options(OPTIMIZERS[name].target)
    own = {each.name: each.default for each in declared if each.name not in NOT_OPTIONS}
    assert own == arguments_of(name)


@pytest.mark.parametrize("target", DATACLASSES)
def test_a_dataclass_has_its_fields_types_and_help(target: str) -> None:
    cls = found(target)
    declared = {each.name: each for each in declared_options(target)}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert list(declared) == list(fields)
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, field in fields.items():
        option = declared[name]
        assert option.help, name
        if (hint := option.type_of()) is not Any:
            assert TypeAdapter(hint).json_schema() == TypeAdapter(hints[name]).json_schema()
        if field.default is not dataclasses.MISSING:
            plain = list(field.default) if isinstance(field.default, tuple) else field.default
            assert option.default == plain
            assert type(option.default) is type(plain)
        elif field.default_factory is dataclasses.MISSING:
            assert option.default == REQUIRED


def test_nothing_slow_is_imported() -> None:
    targets = [*TARGETS.values(), *DATACLASSES, "torch.optim.adam:Adam"]
    program = (
        "import sys; from dmeta.declared import declared_options\n"
        f"for target in {targets!r}: declared_options(target)\n"
        "print(*(m for m in ('torch', 'ray', 'numpy', 'pydantic') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize(
    "source",
    [
        "def make(width=len('abc')): ...",
        "from nowhere import X\ndef make(width=X): ...",
        "def other(): ...",
    ],
)
def test_what_is_not_plain_is_not_guessed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"made_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotReadableError):
        declared_options(f"{name}:make")


def test_arguments_are_read_from_a_docstring() -> None:
    def factory() -> None:
        """Make it.

        Args:
            size: how large; None: as large
                as needed.
            name: of it.

        Raises:
            ValueError: never.
        """

    assert documented(inspect.getdoc(factory) or "") == {
        "size": "how large; None: as large as needed.",
        "name": "of it.",
    }
