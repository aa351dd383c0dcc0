from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dmeta.tasks import archives
from dmeta.tasks.archives import decode_images, fingerprint, list_files, open_files


def make_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name in names:
            out.writestr(name, name)
    return path


def test_names_are_sorted_and_system_files_left_out(tmp_path: Path) -> None:
    names = ["b/2.png", "b/1.png", "a/3.png", "__MACOSX/a/3.png", "a/.DS_Store", "a/"]
    path = make_zip(tmp_path / "x.zip", names)
    for name in names[:-1]:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    assert list_files(path) == list_files(tmp_path / "tree") == ("a/3.png", "b/1.png", "b/2.png")
    for place in (path, tmp_path / "tree"):
        with open_files(place) as read:
            assert read("b/1.png") == b"b/1.png"


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil", "C:/evil"])
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "x.zip", ["a/1.png", name])
    with pytest.raises(ValueError, match=r"must stay inside it, got .*evil.*x\.zip"):
        list_files(path)


def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = make_zip(tmp_path / "x.zip", ["a/1.png", "a/1.png"])
    with pytest.raises(ValueError, match=r"must be unique, got 'a/1\.png' twice"):
        list_files(path)


def test_a_member_that_unpacks_to_too_much_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("1.png", bytes(100_000))
    out_array = np.zeros((1, 2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"got '1\.png' in .*unpacks to 100000 bytes"):
        decode_images(path, ["1.png"], np.asarray, out_array)


def test_the_fingerprint_follows_content_names_and_times(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "a"
    file.parent.mkdir()
    file.write_text("1")
    seen = [fingerprint(file.parent)]
    assert fingerprint(file.parent) == seen[0]
    file.write_text("22")
    seen.append(fingerprint(file.parent))
    os.utime(file, (0, 0))
    seen.append(fingerprint(file.parent))
    file.rename(file.with_name("b"))
    seen.append(fingerprint(file.parent))
    assert len(set(seen)) == 4
