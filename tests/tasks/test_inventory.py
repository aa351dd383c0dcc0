from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.declared import declared_options
from dmeta.registry import LazyEntry
from dmeta.tasks import TASKS, omniglot
from dmeta.tasks.inventory import DataSetStatus, MissingDataError, inventory
from tests.tasks.conftest import TINY_PARTS, real_data, write_tiny_features


def test_every_builtin_source_is_listed_and_those_without_data_are_complete(tmp_path: Path) -> None:
    statuses = {status.name: status for status in inventory(tmp_path)}
    own_files = {
        "arrays",
        "forecast",
        "image_folder",
        "mixture",
        "series",
        "table",
        "text",
        "torchvision",
    }  # lie anywhere
    assert set(statuses) == set(TASKS) - own_files
    reads = {
        name
        for name, entry in TASKS.builtin.items()
        if isinstance(entry, LazyEntry)
        and any(option.name == "root" for option in declared_options(entry.target))
    }
    assert {"features", "miniimagenet", "omniglot"} <= reads
    assert {n for n, s in statuses.items() if s.complete} == set(TASKS) - reads - own_files
    for status in statuses.values():
        assert status.needs_data is not status.complete
        assert bool(status.missing) is bool(status.how_to_get) is status.needs_data


def test_every_source_that_lacks_its_files_says_so_in_one_sentence(tmp_path: Path) -> None:
    for status in inventory(tmp_path):
        if status.needs_data and status.name != "features":  # which needs a name of a file
            with pytest.raises(
                MissingDataError, match=r"must be complete to be read, got "
            ) as told:
                TASKS[status.name].make(root=str(tmp_path))
            assert "\n" not in str(told.value)
            assert str(told.value).endswith(status.how_to_get)
            assert "DMETA_DATA or task.root" in status.how_to_get


def test_omniglot_is_counted_and_a_broken_zip_is_said(
    omniglot_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omniglot, "OMNIGLOT_PARTS", TINY_PARTS)
    status = next(s for s in inventory(omniglot_tree) if s.name == "omniglot")
    assert status.complete
    assert "images_background: 8 characters, 160 drawings" in status.found
    (tmp_path / "images_background.zip").write_bytes(b"broken")
    status = next(s for s in inventory(tmp_path) if s.name == "omniglot")
    assert "must be a readable zip" in status.missing[0]
    assert status.missing[1] == "images_evaluation[.zip]"


def test_files_of_features_are_listed_and_a_broken_one_is_said(tmp_path: Path) -> None:
    write_tiny_features(tmp_path / "features" / "good.npz")

    def status() -> DataSetStatus:
        return next(s for s in inventory(tmp_path) if s.name == "features")

    assert status().complete
    assert status().found == "good.npz: 600 vectors, classes: 25 train, 25 val, 25 test"
    (tmp_path / "features" / "bad.npz").write_bytes(b"broken")
    assert not status().complete
    assert "bad.npz" in status().missing[0]
    assert "good.npz" in status().found


@pytest.mark.slow
@pytest.mark.data
def test_the_real_data_is_complete() -> None:
    root = real_data("omniglot/images_background.zip")
    real_data("mini-imagenet/mini-imagenet.zip")
    complete = {status.name for status in inventory(root) if status.complete}
    assert {"omniglot", "miniimagenet"} <= complete
