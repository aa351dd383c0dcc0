from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from dmeta.tasks.classes import make_starts
from dmeta.tasks.decoded import DecodedImages, load_decoded


class Decoder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> DecodedImages:
        self.calls += 1
        images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
        return DecodedImages(images, ("a", "é"), make_starts([2, 4]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "source.zip").write_bytes(b"anything")
    return root


def load(root: Path, decode: Decoder, recipe: str = "v1", use_cache: bool = True) -> DecodedImages:
    return load_decoded("toy", recipe, [root / "source.zip"], root, decode, use_cache=use_cache)


def cache_file(root: Path) -> Path:
    (file,) = (root / ".dmeta-cache").iterdir()  # and nothing else: no file left aside
    return file


def test_the_second_load_decodes_nothing_and_gives_the_same(root: Path) -> None:
    decode = Decoder()
    first, second = load(root, decode), load(root, decode)
    assert decode.calls == 1
    assert np.array_equal(first.images, second.images)
    assert first.class_names == second.class_names
    assert np.array_equal(first.starts, second.starts)
    assert cache_file(root).name.startswith("toy-")


def test_a_changed_source_or_recipe_makes_it_stale_and_replaces_it(root: Path) -> None:
    decode = Decoder()
    load(root, decode)
    (root / "source.zip").write_bytes(b"anything else")
    load(root, decode)
    assert decode.calls == 2
    load(root, decode, recipe="v2")
    assert decode.calls == 3
    load(root, decode, recipe="v2")
    assert decode.calls == 3
    assert cache_file(root).exists()


def test_without_cache_nothing_is_read_or_written(root: Path) -> None:
    decode = Decoder()
    for _ in range(2):
        load(root, decode, use_cache=False)
    assert decode.calls == 2
    assert not (root / ".dmeta-cache").exists()


@pytest.mark.parametrize("damage", ["flipped", "half", "empty", "one array"])
def test_a_damaged_cache_is_reported_decoded_again_and_replaced(root: Path, damage: str) -> None:
    decode = Decoder()
    images = load(root, decode).images
    file = cache_file(root)
    data = file.read_bytes()
    at = data.index(images.tobytes())
    flipped = data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :]
    one = io.BytesIO()
    np.save(one, images)
    damaged = {"flipped": flipped, "half": data[: len(data) // 2], "empty": b""}
    file.write_bytes(damaged.get(damage, one.getvalue()))
    with pytest.warns(UserWarning, match=r"cache file .* is damaged .* decoded again"):
        again = load(root, decode)
    assert decode.calls == 2
    assert np.array_equal(again.images, images)
    load(root, decode)
    assert decode.calls == 2


def test_a_read_only_root_is_left_alone_even_by_the_superuser(root: Path, tmp_path: Path) -> None:
    root.chmod(0o555)
    try:
        decode = Decoder()
        load(root, decode)
        load(root, decode)
    finally:
        root.chmod(0o755)
    assert decode.calls == 1
    assert [p.name for p in root.iterdir()] == ["source.zip"]
    (file,) = (tmp_path / "cache-home" / "dmeta").iterdir()
    assert file.suffix == ".npz"


def test_no_place_to_write_is_said_and_not_fatal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: E501  # fmt: skip
    (root / ".dmeta-cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "source.zip"))
    with pytest.warns(UserWarning, match="could not be cached"):
        assert load(root, Decoder()).class_names == ("a", "é")


def test_a_write_that_fails_leaves_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(UserWarning, match="No space left on device"):
        load(root, Decoder())
    assert list((root / ".dmeta-cache").iterdir()) == []
