"""Wrong settings are refused in one message, before anything is started or written."""

from __future__ import annotations

import re

import pytest

from dmeta import cli
from tests.commands.refusal import Started, nothing_starts, refusal  # noqa: F401
from tests.commands.wrong_settings import WRONG

pytestmark = pytest.mark.usefixtures("nothing_starts")


@pytest.mark.parametrize(("line", "words"), WRONG, ids=lambda text: text[:60])
def test_wrong_settings_are_refused(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(words, refusal(line, capsys), re.DOTALL)


def test_the_table_has_enough_different_cases() -> None:
    assert len({line for line, _ in WRONG}) == len(WRONG) >= 100


@pytest.mark.parametrize("runtime", ["local", "ray"])
def test_right_settings_start_something(runtime: str) -> None:
    with pytest.raises(Started):
        cli.main(["train", f"runtime={runtime}", "runtime.plan=vmap", "joint_baseline=false"])
