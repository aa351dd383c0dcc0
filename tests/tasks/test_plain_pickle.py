"""Pickles are read as data: what could run is refused, and not run."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.plain_pickle import load_plain_pickle

DATA = {
    "image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "class_dict": OrderedDict(n01=[0, np.int64(1)], n02=np.array([1.5])),
    "other": (b"\x00\xff", "é", None, True, 2.5, [[], ()]),
}


def write(path: Path, data: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(data, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_plain_data_is_read_as_pickle_reads_it(tmp_path: Path, protocol: int, module: str) -> None:
    path = write(tmp_path / "x.pkl", DATA, protocol)
    if protocol < 4:  # the name is a line: of any length
        content = path.read_bytes()
        path.write_bytes(content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"{module}.".encode()))  # noqa: E501  # fmt: skip
    found = load_plain_pickle(path)
    for name in ("image_data", "turned"):
        assert np.array_equal(found[name], DATA[name])
        assert found[name].dtype == pickle.loads(path.read_bytes())[name].dtype
    assert next(iter(found["class_dict"].items())) == ("n01", [0, 1])
    assert found["class_dict"]["n02"].tolist() == [1.5]
    assert found["other"] == DATA["other"]


def python2_pickle(images: np.ndarray) -> bytes:
    """As Python 2 writes {'image_data': images}: bytes are texts, without an encoding."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    shape = b"(" + b"".join(b"K" + bytes([n]) for n in images.shape) + b"t"
    number_type = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    type_state = b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    )
    state = b"(K\x01" + shape + number_type + type_state + b"\x89" + text(images.tobytes()) + b"tb"
    return b"\x80\x02}" + text(b"image_data") + array + state + b"s."


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    images = np.arange(250, 250 + 12, dtype=np.uint16).astype(np.uint8).reshape(3, 2, 2)
    (tmp_path / "x.pkl").write_bytes(python2_pickle(images))
    assert pickle.loads(python2_pickle(images), encoding="latin1")["image_data"].shape == (3, 2, 2)
    assert np.array_equal(load_plain_pickle(tmp_path / "x.pkl")["image_data"], images)


class Runs:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"image_data": np.zeros(2), "x": [x]}])
def test_nothing_is_run(tmp_path: Path, wrap: Any, protocol: int) -> None:
    ran = tmp_path / "ran"
    for call in ((os.mkdir, str(ran)), (eval, f"open({str(ran)!r}, 'w')"), (getattr, "", "join")):
        path = write(tmp_path / "x.pkl", wrap(Runs(*call)), protocol)
        with pytest.raises(ValueError, match=r"must hold numbers.*names \w+\.\w+, which could run"):
            load_plain_pickle(path)
        assert not ran.exists()


def reduced(function: str, *args: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


U1 = reduced("numpy.dtype", b"X\x02\x00\x00\x00u1", b"K\x00", b"K\x01")
EMPTY = reduced("numpy.core.multiarray._reconstruct")

MALICIOUS = {
    "an array of objects": (
        reduced("numpy.dtype", b"X\x02\x00\x00\x00O8", b"K\x00", b"K\x01"), "of type 'O8'",
    ),
    "an array of records": (
        U1 + b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}K\x08K\x01K\x00tb", "records",
    ),
    "fewer bytes than it says": (
        EMPTY + b"(K\x01(K\x09t" + U1 + b"\x89C\x04abcdtb", "4 bytes, not 9",
    ),
    "a negative length": (
        EMPTY + b"(K\x01(J\xff\xff\xff\xfft" + U1 + b"\x89C\x00tb", "of shape",
    ),
    "objects for content": (
        EMPTY + b"(K\x01(K\x01t" + U1 + b"\x89]K\x01atb", "other things than numbers",
    ),
    "numpy's own type of numbers changed": (U1 + b"}b", "unpack|expected"),
    "a function changed": (
        b"c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb", "changes a function",
    ),
    "bytes of another encoding": (
        reduced("_codecs.encode", b"X\x01\x00\x00\x00a", b"X\x03\x00\x00\x00zip"), "decodes bytes",
    ),
    "an identity": (b"Pexternal\n", "persistent"),
    "an extension": (b"\x82\x01", "extension|unregistered"),
    "cut off": (b"(K\x01", "exhausted|EOF|out of input"),
    "not a pickle": (b"hello", ""),
    "empty": (b"", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MALICIOUS)
def test_what_would_mislead_numpy_or_python_is_refused(tmp_path: Path, name: str) -> None:
    content, reason = MALICIOUS[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(content + (b"." if name not in ("cut off", "empty") else b""))
    with pytest.raises(ValueError, match=rf"must hold numbers.*x\.pkl \(.*({reason}).*nothing of it was run"):  # noqa: E501  # fmt: skip
        load_plain_pickle(path)


def test_no_attribute_is_set_on_what_a_file_may_name(tmp_path: Path) -> None:
    state = (None, {"_function": 1})
    for name in ("numpy.core.multiarray.scalar", "collections.OrderedDict", "numpy.ndarray"):
        module, _, own = name.rpartition(".")
        path = tmp_path / "x.pkl"
        path.write_bytes(
            b"\x80\x02c" + f"{module}\n{own}\n".encode() + pickle.dumps(state, 2)[2:-1] + b"b."
        )
        with pytest.raises(ValueError, match="changes a function"):
            load_plain_pickle(path)
    assert load_plain_pickle(write(path, OrderedDict(a=1), 2)) == {"a": 1}
