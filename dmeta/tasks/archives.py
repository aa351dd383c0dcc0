"""Reads the files of a zip or of a folder alike, and decodes many images at once.

Nothing is ever extracted to disk. Names are POSIX paths relative to the zip or folder, and sorted:
the order in which a disk or an archive lists its files never shows. What the files mean is unknown
here.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dmeta.capacity import usable_cpus

ByteArray = npt.NDArray[np.uint8]
Read = Callable[[str], bytes]

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge of a part of an image, in pixels."""

MAX_FILE_BYTES = 64 << 20
"""Larger members of a zip are refused unread: no file of these data sets comes near it."""

MAX_FILES = 1_000_000
"""A zip with more members is refused: miniImageNet has 60,000."""

MAX_PIXELS = 64 << 20
"""Images with more are refused undecoded: a file of a few kilobytes can hold gigabytes of black."""

_CHUNK = 256  # images per unit of work: large enough to hide the pool's own cost
_MAX_THREADS = 16


def list_files(path: Path) -> tuple[str, ...]:
    """Sorted names of the files in a zip or under a folder; hidden and system files are left out.

    Raises:
        ValueError: `path` is no readable zip, or the zip has an unsafe or a repeated name, or too
            many.
    """
    if path.is_dir():
        names = [
            Path(parent, name).relative_to(path).as_posix()
            for parent, _, files in os.walk(path)
            for name in files
        ]
    else:
        with _open_zip(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
        _check_names(path, names)
    return tuple(sorted(name for name in names if not _is_hidden(name)))


@contextmanager
def open_files(path: Path) -> Iterator[Read]:
    """A function that reads one named file of a zip or folder; threads may share it."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
        return
    with _open_zip(path) as archive:

        def read(name: str) -> bytes:
            size_bytes = archive.getinfo(name).file_size
            if size_bytes > MAX_FILE_BYTES:
                raise ValueError(f"unpacks to {size_bytes} bytes, more than {MAX_FILE_BYTES}")
            return archive.read(name)

        yield read


def read_files(path: Path, names: Sequence[str]) -> list[bytes]:
    """Files of a zip or folder.

    Raises:
        ValueError: one cannot be read; the message names it.
    """
    contents = []
    with open_files(path) as read:
        for name in names:
            try:
                contents.append(read(name))
            except _READ_ERRORS as error:
                raise _unreadable(path, name, error) from error
    return contents


def read_texts(path: Path, names: Sequence[str]) -> list[str]:
    """UTF-8 text files of a zip or folder.

    Raises:
        ValueError: one cannot be read; the message names it.
    """
    texts = []
    for name, content in zip(names, read_files(path, names), strict=True):
        try:
            texts.append(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise _unreadable(path, name, error) from error
    return texts


def fingerprint(path: Path) -> str:
    """Changes when the zip or any file of the folder changes in name, size or time of change."""
    digest = hashlib.sha256(str(path.resolve()).encode())
    entries = sorted(_walk(path)) if path.is_dir() else [("", path.stat())]
    for name, stat in entries:
        digest.update(f"\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def decode_images(
    path: Path,
    names: Sequence[str],
    decode: Callable[[Image.Image], ByteArray],
    out: ByteArray,
    *,
    threads: int | None = None,
    formats: tuple[str, ...] = ("PNG", "JPEG"),
    unreadable: list[int] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Writes ``decode(image of names[i])`` to out[i].

    Args:
        path: a zip or a folder.
        names: files of it.
        decode: image -> array of out[i]'s shape; Pillow works outside the interpreter lock.
        out: [len(names), ...] uint8, overwritten.
        threads: None for one a core. Tiny images want 1: most of their time goes into the
            interpreter, and threads only wait for each other (Omniglot: 4.1 s on 1, 5.1 s on 2).
        formats: that are tried, as Pillow names them. Not EPS, which runs another program.
        unreadable: gets the i of images that cannot be decoded, in any order; None: they raise.
        boxes: the part of each image that is decoded, as far as the image reaches; None: all.

    Raises:
        ValueError: an image cannot be decoded; the message names the file.
    """
    chunks = [range(i, min(i + _CHUNK, len(names))) for i in range(0, len(names), _CHUNK)]
    with open_files(path) as read:

        def work(chunk: range) -> None:
            for i in chunk:
                try:
                    with Image.open(io.BytesIO(read(names[i])), formats=formats) as image:
                        _check_pixels(image)
                        box = None if boxes is None else boxes[i]
                        out[i] = decode(image if box is None else _cut(image, box))
                except _DECODE_ERRORS as error:
                    if unreadable is None:
                        raise _unreadable(path, names[i], error) from error
                    unreadable.append(i)

        threads = threads or min(_MAX_THREADS, usable_cpus())
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            try:
                for _ in pool.map(work, chunks):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


_READ_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,  # an encrypted member of a zip, or an unknown way to compress
    KeyError,  # a member that the zip does not have
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
_DECODE_ERRORS = (
    *_READ_ERRORS,  # Pillow's own are OSErrors
    SyntaxError,  # Pillow on a broken PNG chunk
    struct.error,  # Pillow on broken EXIF data
    Image.DecompressionBombError,
)


def _unreadable(path: Path, name: str, error: Exception) -> ValueError:
    # Pillow's own words name an object in memory.
    why = "no image" if isinstance(error, UnidentifiedImageError) else error
    return ValueError(
        f"every file must be readable, got {name!r} in {path} ({why}); "
        "copy, extract or download it again"
    )


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:  # of a later version
        raise ValueError(
            f"an archive must be a readable zip file, got {path} ({error}); "
            "delete it and download it again"
        ) from error


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            yield file.relative_to(folder).as_posix(), file.stat()


def _check_pixels(image: Image.Image) -> None:
    """Refuses an image by its header: nothing is decoded yet."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, upper, right, lower = box
    within = (max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height))
    if within[0] >= within[2] or within[1] >= within[3]:
        raise ValueError(f"has {image.width} x {image.height} pixels, none of them in {box}")
    return image.crop(within)


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len(names) > MAX_FILES:
        raise ValueError(
            f"a zip must have at most {MAX_FILES} files, got {len(names)} in {path}; "
            "use the data set's original archive"
        )
    seen: set[str] = set()
    for name in names:
        _check_name(path, name)
        if name in seen:
            raise ValueError(
                f"names in a zip must be unique, got {name!r} twice in {path}; "
                "download or make the archive again"
            )
        seen.add(name)


def _check_name(path: Path, name: str) -> None:
    """Refuses names that lead out of the archive (nothing is extracted, but it is a bad sign)."""
    if not (name.startswith("/") or ".." in name or ":" in name or "\\" in name):
        return  # as nearly all: the classes of pathlib take seconds for 50,000
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or ".." in windows.parts:
        raise ValueError(
            f"names in a zip must stay inside it, got {name!r} in {path}; "
            "use the data set's original archive"
        )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
