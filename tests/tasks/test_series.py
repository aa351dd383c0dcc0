from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.series import load_series
from dmeta.tasks.source import SPLITS
from dmeta.tasks.ts_files import read_series
from tests.tasks.conftest import real_data, write_series

HEADER = "# about\n\n@problemName x\n@timeStamps false\n@classLabel true a b\n@data\n"


def test_series_of_several_channels_and_lengths(tmp_path: Path) -> None:
    file = tmp_path / "x.ts"
    file.write_text(HEADER + "1,2,3:4,5,6:a\n\n# more\n7,?,9,?:1,1,1,NaN: b \r\n")
    first, second = read_series(file)
    assert first.values.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert (first.label, second.label) == ("a", "b")
    assert second.values[:, 0].tolist() == [7, 8, 9, 9]  # between its neighbours, or the last one
    source = load_series(file=str(file), split_ratio=(1, 0, 0), normalize=False)
    assert source.features.shape == (2, 4, 2)
    assert source.class_examples("train", 0)[0].tolist() == [[1, 4], [2, 5], [3, 6], [0, 0]]
    stretched = load_series(file=str(file), split_ratio=(1, 0, 0), normalize=False, fit="stretch", length=5)  # noqa: E501  # fmt: skip
    assert stretched.class_examples("train", 0)[0][:, 0].tolist() == [1, 1.5, 2, 2.5, 3]
    cut = load_series(file=str(file), split_ratio=(1, 0, 0), length=2)
    assert cut.input_shape == (2, 2)
    scaled = load_series(file=str(file), split_ratio=(1, 0, 0)).class_examples("train", 0)[0]
    np.testing.assert_allclose(scaled[:3].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:3].std(axis=0), 1, rtol=1e-6)


def test_classes_are_split_by_ratio_or_by_file(tmp_path: Path) -> None:
    file = write_series(tmp_path / "x.ts", {f"c{i}": 4 for i in range(10)})
    source = load_series(file=str(file))
    assert [len(source.splits[split]) for split in SPLITS] == [6, 2, 2]
    other = write_series(tmp_path / "y.ts", {"c1": 3, "new": 2})
    with pytest.raises(ValueError, match=r"got 'c1' in test and train; .*task\.split_by=example"):
        load_series(file=str(file), test_file=str(other))
    both = load_series(file=str(file), test_file=str(other), split_by="example")
    assert both.split_class_names("test") == ("c1 (test)", "new")
    assert both.split_class_names("val") == ()
    assert both.sha256 not in (None, source.sha256)
    with pytest.raises(ValueError, match=r"must be the file that the run was begun with"):
        load_series(file=str(file), sha256=both.sha256)


WRONG = {
    "no data": ("@problemName x\n", r"must have series after a line @data"),
    "a line before the data": ("1,2:a\n", r"line 1 of .* must be a comment"),
    "no label": (HEADER + "1,2,3\n", r"line 7 of .* must end in a colon and a label"),
    "an empty label": (HEADER + "1,2,3:\n", r"line 7 of .* must end in a colon and a label"),
    "words": (HEADER + "1,two:a\n", r"line 7 of .* must be finite numbers"),
    "infinity": (HEADER + "1,inf:a\n", r"line 7 of .* must be finite numbers"),
    "nothing known": (HEADER + "?,?:a\n", r"line 7 of .* must be finite numbers"),
    "channels of two lengths": (HEADER + "1,2:1:a\n", r"line 7 of .* channels of one length"),
    "other channels": (HEADER + "1,2:1,2:a\n1,2:a\n", r"same number of channels, got 1, 2"),
    "time stamps": ("@timeStamps true\n@data\n", r"no time stamps"),
    "no classes": (
        "@classLabel false\n@data\n",
        r"must have class labels .* got @classLabel false",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_files_are_refused(tmp_path: Path, what: str) -> None:
    text, message = WRONG[what]
    (tmp_path / "x.ts").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_series(file=str(tmp_path / "x.ts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": ""}, r"task\.file must be a \.ts file, got nothing"),
        ({"file": "no.ts"}, r"task\.file must be a.*, got .*no\.ts, which is no file"),
        ({"test_file": "no.ts"}, r"task\.test_file must be a.*, got .*no\.ts, which is no file"),
        ({"test_file": "two.ts"}, r"as many channels as task\.file, got \[1, 2\]"),
        ({"split_ratio": (0, 0, 0)}, r"task\.split_ratio must be"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "x.ts", {"a": 2, "b": 2})
    Path("two.ts").write_text(HEADER + "1,2:1,2:other\n")
    with pytest.raises(ValueError, match=message):
        load_series(**{"file": "x.ts", **options})


UCR = {
    "ArrowHead": (3, 36, 175, 251, 1), "GunPoint": (2, 50, 150, 150, 1),
    "ItalyPowerDemand": (2, 67, 1029, 24, 1), "OSULeaf": (6, 200, 242, 427, 1),
    "JapaneseVowels": (9, 270, 370, 29, 12),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", UCR)
def test_series_of_the_archives(name: str) -> None:
    root = real_data("time-series") / "time-series"
    classes, num_train, num_test, length, channels = UCR[name]
    source = load_series(
        file=str(root / f"{name}_TRAIN.ts"),
        test_file=str(root / f"{name}_TEST.ts"),
        split_by="example",
    )
    assert source.features.shape == (num_train + num_test, length, channels)
    assert (
        len(source.split_class_names("train")) == len(source.split_class_names("test")) == classes
    )
