"""Wrong settings are refused in one message, before anything is started or written."""

from __future__ import annotations

import re

import pytest
import torch

from dmeta.cli import main
from dmeta.cli.settings.presets import check_run_dir
from tests.cli.refusal import Started, nothing_starts, refusal  # noqa: F401
from tests.cli.wrong_settings import WRONG

pytestmark = pytest.mark.usefixtures("nothing_starts")


@pytest.mark.slow
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
        main.main(["train", f"runtime={runtime}", "compute.plan=vmap", "joint_baseline=false"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train runtime=local device=cuda", r"device=cuda .*GPU"),
        ("train runtime=ray device=cuda", r"device=cuda needs .* 0 GPUs"),
        ("train runtime=ray runtime.num_workers=5000", r"must fit the cluster's .*got 5000 x 1"),
        ("train runtime=ray runtime.gpus_per_worker=1", r"got 1 x 1; lower"),
    ],
)
def test_what_this_machine_lacks_is_refused_before_plans_are_timed(
    line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*_: object) -> None:
        raise Started

    monkeypatch.setattr("dmeta.cli.preparation.with_selection", plan)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert re.search(words, refusal(line, capsys))


def test_a_sweep_may_name_each_folder() -> None:
    for word in ("run_dir=runs/${seed}", "run_dir=a,b", "run_dir=null"):
        check_run_dir(["-m", "seed=0,1", word])
    check_run_dir(["-m", "seed=0", "run_dir=x"])
    check_run_dir(["seed=0,1", "run_dir=x"])
