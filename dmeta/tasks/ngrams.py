"""Texts as vectors: hashed n-grams of words and characters, weighted by how rare they are.

The hashing trick of Weinberger et al. 2009 (arXiv:0902.2206) with signs, and tf-idf weights
((1 + ln tf) (ln((1 + n) / (1 + df)) + 1), as scikit-learn's TfidfTransformer with sublinear_tf).

Letters: N texts, D dimensions.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w+")
_WORD_SIZES, _CHARACTER_SIZES, _STRING_SIZES = (1, 2), (3, 4, 5), (1, 2, 3, 4)


def ngram_vectors(
    texts: Sequence[str],
    num_features: int,
    is_training: npt.NDArray[np.bool_],
    ngrams_of: Callable[[str], Iterable[str]] | None = None,
) -> npt.NDArray[np.float32]:
    """One vector of length 1 for each text; 0 for a text without an n-gram.

    Args:
        texts: N texts.
        num_features: D, the places that n-grams are hashed to.
        is_training: [N]; how rare an n-gram is follows from these texts alone.
        ngrams_of: the n-grams of a text; None: `ngrams`.

    Returns:
        [N, D].
    """
    found = ngrams if ngrams_of is None else ngrams_of
    counts = np.zeros((len(texts), num_features), dtype=np.float32)
    for row, text in enumerate(texts):
        for ngram, count in Counter(found(text)).items():
            code = zlib.crc32(ngram.encode())
            sign = 1.0 if code & 1 else -1.0
            counts[row, (code >> 1) % num_features] += sign * (1.0 + np.log(count))
    present = np.count_nonzero(counts[is_training], axis=0)
    counts *= np.log((1 + is_training.sum()) / (1 + present)).astype(np.float32) + 1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    np.divide(counts, lengths, out=counts, where=lengths > 0)
    return counts


def words(text: str) -> list[str]:
    """Without regard to case, punctuation and how characters are composed (NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def ngrams(text: str) -> Iterator[str]:
    """Words and pairs of words, and 3 to 5 characters of each word with its ends marked."""
    found = words(text)
    for size in _WORD_SIZES:
        for start in range(len(found) - size + 1):
            yield " ".join(found[start : start + size])
    for word in found:
        marked = f"<{word}>"
        for size in _CHARACTER_SIZES:
            for start in range(len(marked) - size + 1):
                yield f"#{marked[start : start + size]}"


def string_ngrams(text: str) -> Iterator[str]:
    """1 to 4 characters of a text as it is, every sign counting: for SMILES, or sequences."""
    for size in _STRING_SIZES:
        for start in range(len(text) - size + 1):
            yield text[start : start + size]
