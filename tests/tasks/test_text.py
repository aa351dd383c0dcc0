from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks import sentence_encoder
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.ngrams import ngram_vectors, ngrams, words
from dmeta.tasks.sentence_encoder import Encoder
from dmeta.tasks.source import SPLITS
from dmeta.tasks.text import load_text as load_any
from tests.tasks.conftest import real_data, write_texts


def load_text(**options: Any) -> FeatureClasses:
    source = load_any(**options)
    assert isinstance(source, FeatureClasses)
    return source


def names(source: FeatureClasses) -> list[tuple[str, ...]]:
    return [source.split_class_names(split) for split in SPLITS]


def test_ngrams_are_of_words_and_of_their_characters() -> None:
    assert words("Wi-Fi ﬁne, ÀÉ 2!") == ["wi", "fi", "fine", "àé", "2"]
    assert sorted(ngrams("A bcd")) == sorted(
        ["a", "bcd", "a bcd", "#<a>", "#<bc", "#bcd", "#cd>", "#<bcd", "#bcd>", "#<bcd>"]
    )
    assert list(ngrams("?!")) == []


def test_vectors_are_signed_hashes_with_tf_idf_weights() -> None:
    texts = ["a b", "a a", "c", "!"]
    is_training = np.array([True, True, False, False])
    got = ngram_vectors(texts, 4096, is_training)
    for text, vector in zip(texts[:3], got, strict=False):
        expected = np.zeros(4096)
        grams = list(ngrams(text))
        for gram in set(grams):
            code = zlib.crc32(gram.encode())
            in_training = sum(gram in list(ngrams(other)) for other in texts[:2])
            idf = math.log((1 + 2) / (1 + in_training)) + 1
            sign = 1 if code % 2 else -1
            expected[code // 2 % 4096] += sign * (1 + math.log(grams.count(gram))) * idf
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-5)
    assert not got[3].any()
    alone = ngram_vectors(texts[2:3], 4096, np.array([False]))
    np.testing.assert_allclose(np.linalg.norm(alone), 1, rtol=1e-6)


def test_classes_are_split_by_ratio_or_by_the_table(tmp_path: Path) -> None:
    file = write_texts(tmp_path / "texts.csv", {f"class{i}": 4 for i in range(10)})
    source = load_text(file=str(file), num_features=64)
    assert source.features.shape == (40, 64)
    assert [len(own) for own in names(source)] == [6, 2, 2]
    assert np.diff(source.starts).tolist() == [4] * 10
    rows = "y,a b,train\nx,c,test\ny,d,train\n"
    file.write_text("intent,utterance,split\n" + rows)
    columns = {"text_column": "utterance", "label_column": "intent"}
    assert names(load_text(file=str(file), **columns)) == [("y",), (), ("x",)]
    file.write_text("intent,utterance,split\n" + rows + "x,e,train\n")
    with pytest.raises(ValueError, match=r"a class must be in one split, got 'x' in test and tr"):
        load_text(file=str(file), **columns)


def test_how_rare_a_word_is_follows_from_training_texts_alone(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    train = "text,label,split\nred car,a,train\nred bus,a,train\nsea,b,train\n"
    file.write_text(train + "red sky,c,test\n")
    one = load_text(file=str(file))
    file.write_text(train + "red sky,c,test\nred red moon,c,test\nred,d,test\n")
    other = load_text(file=str(file))
    assert np.array_equal(one.class_examples("train", 0), other.class_examples("train", 0))
    assert np.array_equal(one.class_examples("test", 0)[0], other.class_examples("test", 0)[0])


def test_repeated_texts_and_small_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text,label\none,a\nOne!,a\ntwo,a\nboth,a\nboth,b\nthree,b\nfour,c\n")
    with pytest.warns(
        UserWarning, match=r"3 texts with .*'line 3', 'line 5', 'line 6'.*; 2 classes .*'b'"
    ):
        source = load_text(file=str(file), min_per_class=2, split_ratio=(1, 0, 0))
    assert source.class_names == ("a",)
    assert source.features.shape == (2, 2048)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": ""}, r"task\.file must be a table of texts, got nothing"),
        ({"file": "nowhere.csv"}, r"task\.file must be a.*, got .*nowhere\.csv, which is no file"),
        ({"label_column": "intent"}, r"must have the columns text, intent, got label, text"),
        ({"split_ratio": (0, 0, 0)}, r"task\.split_ratio must be the shares"),
        (
            {"features": "sentence_encoder", "num_features": 64},
            r"task\.num_features must not be set without task\.features=ngrams",
        ),
        ({"sha256": "0" * 64}, r"must be the file that the run was begun with"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = write_texts(tmp_path / "texts.csv", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match=message):
        load_text(**{"file": str(file), **options})


def test_vectors_of_a_sentence_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(text: str) -> np.ndarray:
        return np.array([len(text), zlib.crc32(text.encode())], dtype=np.float32)

    monkeypatch.setattr(sentence_encoder, "load_encoder", lambda: Encoder("stand-in", encode))
    file = tmp_path / "texts.csv"
    file.write_text("text,label\nlonger one,b\nOne,a\none,a\n")
    with pytest.warns(UserWarning, match="1 texts with the words of another one"):
        source = load_text(file=str(file), features="sentence_encoder", split_ratio=(1, 0, 0))
    assert source.class_names == ("a", "b")
    assert np.array_equal(source.features, [encode("One"), encode("longer one")])
    assert source.input_form == "unit_vectors"


@pytest.mark.slow
def test_leopard_files_of_nine_classes(tmp_path: Path) -> None:
    import json
    import zipfile

    root = real_data("leopard/leopard.zip")
    with zipfile.ZipFile(root / "leopard" / "leopard.zip") as archive:
        [name] = [n for n in archive.namelist() if n.endswith("political_message_eval.json")]
        rows = json.loads(archive.read(name))
    file = tmp_path / "eval.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    source = load_text(file=str(file), text_column="sentence1", split_by="example")
    assert {name.rpartition(" (")[0] for name in source.class_names} == {r["label"] for r in rows}
    assert np.isfinite(source.features).all()
