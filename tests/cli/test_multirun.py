"""Sweeps by Hydra (-m): what is wrong with one is said before its first job runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dmeta.cli import main
from dmeta.cli.errors import unknown_key

SWEEP = ["train", "-m", "task=glyphs", "runtime=local"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "algorithm=protonet,maml algorithm.inner_lr=0.1",
            "algorithm.inner_lr must be a key of everything that is swept over, got "
            "algorithm=protonet without it (algorithm=maml has it); sweep over those apart",
        ),
        (
            "algorithm=choice(maml,protonet,anil) algorithm.inner_lr=0.1,0.2",
            "got algorithm=protonet without it (algorithm=maml, algorithm=anil has it)",
        ),
        (
            "algorithm=maml,anil model=mlp,conv4_strided model.hidden=8",
            "got model=conv4_strided without it (model=mlp has it)",
        ),
        (
            "algorithm=maml,anil algorithm.iner_lr=0.1",
            "unknown key 'algorithm.iner_lr' (did you mean 'algorithm.inner_lr'?)",
        ),
    ],
)
def test_the_choice_that_lacks_a_key_is_named_before_the_first_job(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dmeta"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        main.main([*SWEEP, *words.split()])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("multirun/*/*/*"))


def test_without_a_sweep_it_is_an_unknown_key() -> None:
    told = unknown_key("algorithm.inner_lr", "train", ["algorithm=protonet"])
    assert told.startswith("unknown key 'algorithm.inner_lr', which is a key of algorithm=maml, ")
    assert "; algorithm has name" in told
