"""Small data sets made on the spot, and where the real ones are."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]


def real_data(path: str) -> Path:
    """The data root if it has `path`; skips the test if not."""
    root = Path(os.environ.get("DMETA_DATA") or PROJECT.parent / "shared" / "data")
    if not (root / path).exists():
        pytest.skip(f"no {path} under {root}; set DMETA_DATA to a folder that has it")
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, or sees the user's data root."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.delenv("DMETA_CACHE", raising=False)


def zip_tree(folder: Path, archive: Path, *, reverse: bool = False) -> Path:
    """Zips a folder's content, optionally listing it backwards."""
    files = sorted((p for p in folder.rglob("*") if p.is_file()), reverse=reverse)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as out:
        for file in files:
            out.write(file, file.relative_to(folder).as_posix())
    return archive


def tiny_features(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of a file of features: 75 classes, 25 a split, 8 vectors of 6 features each, mixed."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(75), 8))
    return {
        "features": (labels[:, None] + rng.random((600, 6))).astype(np.float32),
        "labels": labels,
        "class_names": np.array([f"class{number:02d}" for number in rng.permutation(75)]),
        "class_splits": np.array(["train", "val", "test"])[np.arange(75) % 3],
    }


def write_tiny_features(path: Path) -> Path:
    """A file of `tiny_features`, as anyone can write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **tiny_features())
    return path


def write_pictures(root: Path, counts: Mapping[str, int], content: bytes | None = None) -> Path:
    """<root>/<class>/<number>.png, every picture another; or files of `content`. Returns root."""
    for label, count in counts.items():
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(label.encode()))
        for number in range(count):
            pixels = rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            if content is not None:
                (folder / f"{number}.png").write_bytes(content)
    return root


def write_texts(path: Path, counts: Mapping[str, int]) -> Path:
    """A csv file with columns text and label, every text another. Returns path."""
    rows = [f"word{n} of {label},{label}" for label, count in counts.items() for n in range(count)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def write_pair(folder: Path, texts: str | bytes, labels: str) -> Path:
    """A folder with the files seq.in and label. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seq.in").write_bytes(texts.encode() if isinstance(texts, str) else texts)
    (folder / "label").write_bytes(labels.encode())
    return folder


def write_groups(path: Path, num_groups: int, num_rows: int) -> Path:
    """A csv file with columns school, a, b and y = a + 100 school. Returns path."""
    rng = np.random.default_rng(0)
    rows = ["school,a,b,y"]
    for group in range(num_groups):
        for a, b in rng.integers(1000, size=(num_rows, 2)):
            rows.append(f"{group},{a},{b},{a + 100 * group}")
    path.write_text("\n".join(rows) + "\n")
    return path


def write_series(path: Path, counts: Mapping[str, int]) -> Path:
    """A .ts file of series of 6 random numbers, every one another. Returns path."""
    rng = np.random.default_rng(0)
    lines = ["@problemName tiny", "@classLabel true", "@data"]
    for label, count in counts.items():
        for values in rng.normal(size=(count, 6)):
            lines.append(f"{','.join(map(str, values.tolist()))}:{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


TINY_OMNIGLOT = {
    "images_background": {
        "Greek": 2, "Hebrew": 1, "Latin": 1, "Braille": 1, "Korean": 1, "Futurama": 1, "Tagalog": 1,
    },
    "images_evaluation": {"Angelic": 1, "Tibetan": 1, "Gurmukhi": 42},
}  # fmt: skip
TINY_PARTS = {part: sum(alphabets.values()) for part, alphabets in TINY_OMNIGLOT.items()}


@pytest.fixture(scope="session")
def omniglot_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<root>/omniglot/images_*/<Alphabet>/characterNN/*.png, every drawing another."""
    root = tmp_path_factory.mktemp("omniglot")
    rng = np.random.default_rng(0)
    number = 0
    for part, alphabets in TINY_OMNIGLOT.items():
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                number += 1
                folder = root / "omniglot" / part / alphabet / f"character{character:02d}"
                folder.mkdir(parents=True)
                for drawing in range(1, 21):
                    pixels = np.full((105, 105), 255, dtype=np.uint8)
                    x, y = rng.integers(5, 80, size=2)
                    pixels[y : y + 20, x : x + 6] = 0
                    image = Image.fromarray(pixels).convert("1")
                    image.save(folder / f"{number:04d}_{drawing:02d}.png")
    return root


TINY_MINI = {"train": {"n02": 4, "n01": 3}, "val": {"n03": 2}, "test": {"n05": 3, "n04": 3}}


@pytest.fixture
def mini_tree(tmp_path: Path) -> Path:
    """<root>/mini-imagenet/{images/*.jpg,*.csv}; one image of another size, one not named."""
    root = tmp_path / "mini"
    images = root / "mini-imagenet" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, classes in TINY_MINI.items():
        rows = ["filename,label"]
        for label, count in classes.items():
            for i in range(count):
                side = 100 if (label, i) == ("n01", 0) else 84
                pixels = rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / f"{label}{i:04d}.jpg")
                rows.append(f"{label}{i:04d}.jpg,{label}")
        (root / "mini-imagenet" / f"{split}.csv").write_text("\n".join(rows) + "\n")
    (images / "unnamed.jpg").write_bytes(b"not read")
    return root
