"""Sessions of Ray clusters of our own: nobody else reads or writes them, and they go at the end."""

import stat
import tempfile
from pathlib import Path

import pytest

from dmeta.runtime.cluster import connect as clusters
from dmeta.runtime.cluster.session_folder import make_session_folder, remove_session_folder

LONGEST = "/r/session_2026-11-28_17-45-29_186028_4194304/sockets/plasma_store.1"


@pytest.fixture
def short(monkeypatch):
    """A folder with a short path: pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_it_is_for_this_user_alone_and_short_enough_for_sockets(short):
    for _ in range(2):
        folder = make_session_folder()
        assert folder.parent == short
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(str(folder) + LONGEST) <= 107
    assert len(list(short.iterdir())) == 2


def test_a_folder_for_temporary_files_that_is_too_long_is_not_taken(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = make_session_folder()
    assert folder.parent == Path("/tmp")
    folder.rmdir()


def test_one_that_can_not_be_made_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/x")
    with pytest.raises(ValueError, match="make /dev/null/x writable, or set RAY_TMPDIR or TMPDIR"):
        make_session_folder()


def test_it_is_removed_unless_an_error_is_on_its_way(short, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(clusters, "_SESSION_FOLDERS", [make_session_folder()])
    (next(short.iterdir()) / "session").mkdir()
    clusters.leave()
    assert list(short.iterdir()) == []
    clusters._SESSION_FOLDERS.append(make_session_folder())
    try:
        raise RuntimeError("a worker was lost")
    except RuntimeError:
        clusters.leave()
    assert len(list(short.iterdir())) == 1
    remove_session_folder(next(short.iterdir()))
    assert list(short.iterdir()) == []


def test_a_cluster_of_our_own_has_such_a_folder(cluster):
    from ray._private.worker import _global_node

    folder = Path(_global_node.get_session_dir_path())
    inside = [folder, *folder.parents]
    private = next(path for path in inside if path.name.startswith("dmeta-ray-"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert (folder / "sockets").is_dir()
