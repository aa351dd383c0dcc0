from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks import archives
from dmeta.tasks.archives import decode_images, fingerprint, list_files, open_files, read_texts


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


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil", "C:/evil", "..\\evil.png", "C:\\evil"]
)
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


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("1.txt", bytes(10_000_000))
    honest, lie = (size.to_bytes(4, "little") for size in (10_000_000, 10))
    path.write_bytes(path.read_bytes().replace(honest, lie))
    with pytest.raises(ValueError, match=r"got '1\.txt' in .*Bad CRC-32"):
        read_texts(path, ["1.txt"])


def test_a_zip_of_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    assert len(list_files(make_zip(tmp_path / "2.zip", ["1", "2"]))) == 2
    with pytest.raises(ValueError, match=r"must have at most 2 files, got 3 in .*3\.zip"):
        list_files(make_zip(tmp_path / "3.zip", ["1", "2", "3"]))


def test_an_image_of_too_many_pixels_is_refused_undecoded(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "1.png"
    file.parent.mkdir()
    Image.new("1", (8200, 8200)).save(file)
    assert file.stat().st_size < 20_000
    decode = lambda image: pytest.fail("decoded")  # noqa: E731 - never called
    with pytest.raises(ValueError, match=r"got '1\.png' in .*8200 x 8200 pixels, more than"):
        decode_images(file.parent, ["1.png"], decode, np.zeros((1, 2, 2), dtype=np.uint8))


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    link = zipfile.ZipInfo("link.txt")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(link, str(tmp_path / "secret.txt"))
    assert read_texts(path, ["link.txt"]) == [str(tmp_path / "secret.txt")]


def test_nothing_of_a_zip_is_written_to_disk(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", ["a/1.txt"])
    with open_files(path) as read:
        assert read("a/1.txt") == b"a/1.txt"
    assert list(tmp_path.iterdir()) == [path]


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


def test_only_a_box_of_an_image_is_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen: list[tuple[int, int]] = []

    def decode(image: Image.Image) -> np.ndarray:
        seen.append(image.size)
        return np.asarray(image)[:2, :2]

    out = np.empty((3, 2, 2), np.uint8)
    boxes = [None, (2, 1, 7, 4), (-3, 4, 99, 99)]
    decode_images(tmp_path, ["a.png"] * 3, decode, out, threads=1, boxes=boxes)
    assert seen == [(8, 6), (5, 3), (8, 2)]
    assert np.array_equal(out[1], pixels[1:3, 2:4])
    with pytest.raises(ValueError, match=r"got 'a\.png' .*has 8 x 6 pixels, none of them in \(8,"):
        decode_images(tmp_path, ["a.png"], decode, out, boxes=[(8, 0, 9, 6)])
