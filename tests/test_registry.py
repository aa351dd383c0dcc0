"""Registries: names, nearest names, and entries of other packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dmeta import registry
from dmeta.registry import Entry, LazyEntry, Registry, nearest

BUILT_IN = Entry(lambda: "built in", "comes with dmeta", "nowhere")
THEIRS = Entry(lambda **options: options, "from another package", "elsewhere")


class Points(list[Any]):
    """Entry points, as `importlib.metadata` gives them."""

    @property
    def names(self) -> set[str]:
        return {point.name for point in self}


class Package:
    """A distribution whose entry points are given as (name, object)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **objects: Any) -> None:
        self.asked: list[str] = []
        self.points = []
        for name, loaded in objects.items():
            point = metadata.EntryPoint(name, f"theirs:{name}", "dmeta.things")
            fake = type("FakePoint", (), {"name": name, "value": point.value})()
            fake.load = lambda loaded=loaded: loaded
            self.points.append(fake)
        monkeypatch.setattr(metadata, "entry_points", self.entry_points)

    def entry_points(self, *, group: str, name: str | None = None) -> Points:
        self.asked.append(group)
        points = self.points if group == "dmeta.things" else []
        return Points(point for point in points if name in (None, point.name))


def things() -> Registry[Any]:
    return Registry("thing", {"first": BUILT_IN, "second": BUILT_IN})


def test_it_is_a_mapping_from_names_to_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    Package(monkeypatch)
    registered = things()
    assert list(registered) == ["first", "second"]
    assert len(registered) == 2
    assert "first" in registered
    assert "third" not in registered
    assert registered["first"].make() == "built in"


def test_it_answers_for_names_that_it_lacks_as_every_mapping_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Package(monkeypatch)
    registered = things()
    assert isinstance(registered, Mapping)
    assert registered.get("third") is None
    assert registered.get("third", BUILT_IN) is BUILT_IN
    assert registered.get("first") is BUILT_IN
    assert dict(registered) == {"first": BUILT_IN, "second": BUILT_IN}
    with pytest.raises(KeyError, match=r"^thing must be one of first, second, got 'third'"):
        registered["third"]


def test_it_prints_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    Package(monkeypatch)
    assert repr(things()) == "Registry(thing: first, second)"


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("mamml", ["maml", "reptile"], " (did you mean 'maml'?)"),
        ("reptil", ["maml", "reptile"], " (did you mean 'reptile'?)"),
        ("xyz", ["maml", "reptile"], ""),
        ("maml", [], ""),
    ],
)
def test_nearest_names(name: str, known: list[str], said: str) -> None:
    assert nearest(name, known) == said
    assert nearest(name, iter(known)) == said


def test_an_unknown_name_is_refused_with_all_names_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Package(monkeypatch)
    with pytest.raises(ValueError, match="thing must be one of first, second, got 'frist'") as told:
        things()["frist"]
    assert str(told.value).endswith("(did you mean 'first'?)")
    with pytest.raises(ValueError, match=r"got 'qqqq'$"):
        things()["qqqq"]


def test_an_unknown_name_is_not_taken_for_something_to_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Package(monkeypatch)
    with pytest.raises(ValueError, match="must be one of"):
        things()["os.system"]


def test_entry_points_of_other_packages_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package(monkeypatch, theirs=THEIRS)
    registered = things()
    assert package.asked == []
    assert set(registered) == {"first", "second", "theirs"}
    assert registered["theirs"] is THEIRS
    assert package.asked == ["dmeta.things", "dmeta.things"]  # their names, and one of them
    assert registered["theirs"].make(size=3) == {"size": 3}
    assert len(package.asked) == 2


def test_another_rooms_entry_points_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    Package(monkeypatch, theirs=THEIRS)
    assert "theirs" not in Registry("model", {"first": BUILT_IN})


def test_an_entry_point_that_is_no_entry_is_refused_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Package(monkeypatch, broken=lambda: "made", theirs=THEIRS)
    registered = things()
    assert list(registered) == ["first", "second", "broken", "theirs"]
    assert registered["first"] is BUILT_IN
    assert registered["theirs"] is THEIRS
    for _ in range(2):
        words = r"'theirs:broken' in group dmeta.things must be .* got function; repair or uninst"
        with pytest.raises(ValueError, match=words):
            registered["broken"]


def test_an_entry_point_may_not_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Package(monkeypatch, other=THEIRS, first=THEIRS)
    registered = things()
    assert registered["other"] is THEIRS
    assert registered["second"] is BUILT_IN
    for _ in range(2):
        words = "must not take the name of the built-in thing 'first'; rename it"
        with pytest.raises(ValueError, match=words):
            registered["first"]


@pytest.mark.parametrize("room", ["algorithms", "models", "tasks"])
def test_the_rooms_own_registries_have_the_documented_groups(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__(f"dmeta.{room}", fromlist=[room.upper()])
    own: Registry[Any] = getattr(module, room.upper())
    package = Package(monkeypatch)
    assert next(iter(own))
    assert set(package.asked) == {f"dmeta.{room}"}
    assert isinstance(own, registry.Registry)


def test_a_lazy_entry_is_imported_once_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Package(monkeypatch)
    (tmp_path / "imported_late.py").write_text("def make() -> str:\n    return 'made'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registered: Registry[Any] = Registry(
        "thing", {"late": LazyEntry("imported_late:make", "comes late", "nowhere", {"a": 1})}
    )
    assert list(registered) == ["late"]
    assert registered.builtin["late"].summary == "comes late"
    assert "imported_late" not in sys.modules
    entry = registered["late"]
    assert (entry.make(), entry.summary, entry.source) == ("made", "comes late", "nowhere")
    assert entry.settings == {"a": 1}
    assert registered["late"] is entry
    del sys.modules["imported_late"]


def test_names_of_methods_models_and_tasks_are_known_without_torch() -> None:
    program = (
        "import sys; from dmeta.algorithms import ALGORITHMS; from dmeta.models import MODELS; "
        "from dmeta.tasks import TASKS; assert {'maml', 'mlp', 'sinusoid'} <= "
        "{*ALGORITHMS, *MODELS, *TASKS}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
