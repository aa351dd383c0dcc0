from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.arrays import map_array, write_arrays
from dmeta.tasks.classes import make_starts
from dmeta.tasks.image_cache import DecodedImages, load_decoded


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
    return load_decoded("toy", recipe, [root / "source.zip"], decode, use_cache=use_cache)


def cache_file(root: Path) -> Path:
    (file,) = cached(root)  # and nothing else: no file left aside
    return file


def cached(root: Path) -> list[Path]:
    return sorted((root.parent / "cache-home" / "dmeta" / "decoded").glob("**/*"))


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
    assert cached(root) == []


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


def test_the_users_data_is_never_written_and_each_place_has_its_own_file(root: Path) -> None:
    other = root.parent / "other"
    other.mkdir()
    (other / "source.zip").write_bytes(b"anything")
    decode = Decoder()
    for place in (root, other, root, other):
        load(place, decode)
    assert decode.calls == 2
    assert len(cached(root)) == 2
    for place in (root, other):
        assert [path.name for path in place.iterdir()] == ["source.zip"]


def test_no_place_to_write_is_said_and_not_fatal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: E501  # fmt: skip
    monkeypatch.setenv("DMETA_CACHE", str(root / "source.zip"))
    with pytest.warns(UserWarning, match=r"could not be cached .*; set DMETA_CACHE to a folder"):
        assert load(root, Decoder()).class_names == ("a", "é")


def test_a_write_that_fails_leaves_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(UserWarning, match="No space left on device"):
        load(root, Decoder())
    assert cached(root) == []


def test_images_are_mapped_and_not_copied(root: Path) -> None:
    decode = Decoder()
    first = load(root, decode).images
    second = load(root, decode).images
    assert not second.flags.writeable
    base = second
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    load(root, decode, recipe="v2")  # the file is replaced: what was mapped stays
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_large_images_need_not_fit_into_memory(tmp_path: Path) -> None:
    """A process that may have 400 MB of its own reads a cache of 800 MB, check sum and all."""
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np
from dmeta.tasks.arrays import map_array
resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
images = map_array(Path({str(tmp_path / "large.npz")!r}), "images")
assert images.shape == (800, 1 << 20)
assert images[799, -1] == 7
try:
    np.ones(500 << 20, dtype=np.uint8)
except MemoryError:
    print("limited")
"""
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (800, 1 << 20))
    images[799, -1] = 7
    images.flush()
    write_arrays(tmp_path / "large.npz", {"images": images})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "limited\n", done.stderr


@pytest.mark.parametrize("save", [np.savez_compressed, None])
def test_only_plain_stored_arrays_are_mapped(tmp_path: Path, save: Any) -> None:
    file = tmp_path / "a.npz"
    if save is None:
        np.savez(file, images=np.asfortranarray(np.ones((3, 4))))
    else:
        save(file, images=np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"images is (compressed|no plain array)"):
        map_array(file, "images")
    with pytest.raises(KeyError):
        map_array(file, "others")
