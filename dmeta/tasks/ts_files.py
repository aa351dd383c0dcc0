"""Time series of ``.ts`` files, the form of the UCR and UEA archives (Bagnall et al., aeon).

After comments (``#``) and a header (``@name value``), each line is a series: its channels, parted
by ``:``, each of numbers parted by ``,``; the last part is the label. ``?`` is a missing value.

Letters: L positions, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmeta.tasks.archives import read_texts


class LabelledSeries(NamedTuple):
    """One series.

    Attributes:
        values: [L, C] float64; missing values are interpolated.
        label: of its class.
    """

    values: npt.NDArray[np.float64]
    label: str


def read_series(path: Path) -> list[LabelledSeries]:
    """All series of a file, each of its own length; all of the same channels.

    Raises:
        ValueError: the file is none of this form, or has no labels.
    """
    header: dict[str, str] = {}
    found: list[LabelledSeries] = []
    in_data = False
    for number, line in enumerate(read_texts(path.parent, [path.name])[0].splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if in_data:
            found.append(_series(path, number, text))
        elif text.lower() == "@data":
            in_data = True
            _check_header(path, header)
        elif text.startswith("@"):
            name, _, value = text[1:].partition(" ")
            header[name.lower()] = value.strip()
        else:
            raise _wrong(path, number, "must be a comment (#), of the header (@) or after @data")
    if not found:
        raise ValueError(f"{path} must have series after a line @data, got none; use a .ts file")
    channels = {each.values.shape[1] for each in found}
    if len(channels) > 1:
        raise ValueError(
            f"all series of {path} must have the same number of channels, got "
            f"{', '.join(map(str, sorted(channels)))}; correct the file"
        )
    return found


def _check_header(path: Path, header: Mapping[str, str]) -> None:
    if header.get("classlabel", "true").split()[:1] != ["true"]:
        raise ValueError(
            f"{path} must have class labels (@classLabel true ...), got @classLabel "
            f"{header['classlabel'][:40]}; use a file for classification"
        )
    if header.get("timestamps", "false").lower() == "true":
        raise ValueError(
            f"{path} must have no time stamps (@timeStamps false), got true; resample the series"
        )


def _series(path: Path, number: int, text: str) -> LabelledSeries:
    *parts, label = text.split(":")
    if not parts or not label.strip():
        raise _wrong(path, number, "must end in a colon and a label")
    try:
        channels = [_channel(part) for part in parts]
    except ValueError:
        raise _wrong(path, number, "must be finite numbers parted by commas") from None
    if len({len(channel) for channel in channels}) > 1:
        raise _wrong(path, number, "must have channels of one length")
    return LabelledSeries(np.stack(channels, axis=1), label.strip())


def _channel(part: str) -> npt.NDArray[np.float64]:
    cells = [cell.strip() for cell in part.split(",")]
    values = np.array([np.nan if cell in ("?", "NaN") else float(cell) for cell in cells])
    known = ~np.isnan(values)
    if np.isinf(values).any() or not known.any():
        raise ValueError
    at = np.arange(len(values))
    filled: npt.NDArray[np.float64] = np.interp(at, at[known], values[known])
    return filled


def _wrong(path: Path, number: int, must: str) -> ValueError:
    return ValueError(f"line {number} of {path} {must}, got something else; use a .ts file")
