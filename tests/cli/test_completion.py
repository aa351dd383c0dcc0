"""Shell completion: what is offered, how quickly, and that a shell can use it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dmeta.algorithms import ALGORITHMS
from dmeta.cli import main
from dmeta.cli.completion import candidates, words_of
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.verbs import SHELLS, VERBS

_SLOW = ("torch", "ray", "hydra", "omegaconf", "pydantic", "numpy", "rich")


def offered(line: str) -> list[str]:
    return list(candidates(words_of(line)))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("dmeta tr", ["train"]),
        ("dmeta d", ["data", "doctor"]),
        ("dmeta train alg", ["algorithm=", "algorithm."]),
        ("dmeta train algorithm=rep", ["algorithm=reptile"]),
        ("dmeta train st", ["steps="]),
        ("dmeta train algorithm.inner_lr", ["algorithm.inner_lr="]),
        ("dmeta train task=glyphs task.num_c", ["task.num_classes="]),
        ("dmeta train task=sinusoid task.num_c", []),
        ("dmeta train experiment=omniglot_5w1s_anil task.rot", ["task.rotations="]),
        ("dmeta train outer=sgd outer.nest", ["outer.nesterov="]),
        ("dmeta train joint_baseline=", ["joint_baseline=true", "joint_baseline=false"]),
        ("dmeta train run_dir=", ["run_dir=null"]),
        (
            "dmeta train eval.checkpoint=",
            [f"eval.checkpoint={each}" for each in ("last", "best", "ensemble")],
        ),
        ("dmeta train --mul", ["--multirun"]),
        ("dmeta tune search=as", ["search=asha"]),
        ("dmeta tune search/space=meth", ["search/space=methods"]),
        ("dmeta evaluate num", ["num_tasks="]),
        ("dmeta evaluate task=sin", ["task=sinusoid"]),
        ("dmeta bench gra", ["gradients"]),
        ("dmeta bench plans bench.pl", ["bench.plans="]),
        ("dmeta bench gradients algorithm=rep", ["algorithm=reptile"]),
        ("dmeta submit tu", ["tune"]),
        ("dmeta submit train algorithm=rep", ["algorithm=reptile"]),
        ("dmeta submit train submit.w", ["submit.wait="]),
        ("dmeta new ", ["algorithm", "task", "model"]),
        ("dmeta completion f", ["fish"]),
        ("dmeta doctor -", ["--json"]),
        ("dmeta status ", ["run_dir=", "json=true", "watch=true"]),
        ("dmeta nothing ", []),
        ("CUDA_VISIBLE_DEVICES= ./venv/bin/dmeta tr", ["train"]),
    ],
)
def test_the_last_word_is_completed(line: str, wanted: list[str]) -> None:
    assert offered(line) == wanted


def test_every_verb_and_every_method_is_offered() -> None:
    assert offered("dmeta ") == list(VERBS)
    assert {f"algorithm={name}" for name in ALGORITHMS} <= set(offered("dmeta train algorithm="))


@pytest.mark.parametrize("words", ["", "algorithm=protonet task=glyphs", "outer=rmsprop"])
def test_every_key_that_can_be_set_is_offered(words: str) -> None:
    keys = set(_keys(compose("train", words.split())))
    keys -= {key for key in keys if key.endswith(".name")}
    assert len(keys) > 40
    assert [key for key in keys if f"{key}=" not in offered(f"dmeta train {words} {key}")] == []


def test_what_a_name_means_is_said() -> None:
    assert candidates(["train", "algorithm=anil"])["algorithm=anil"].startswith("MAML whose")
    assert candidates(["train", "max_"]) == {"max_rejected=": "default 10"}


def test_a_shell_is_answered_without_slow_imports() -> None:
    program = (
        "import sys; from dmeta.cli.main import main; "
        "main(['--complete', 'dmeta train algorithm=maml algorithm.inner_']); "
        f"print('imported:', *(name for name in {_SLOW!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert "algorithm.inner_lr=\tdefault 0.01" in lines
    assert lines[-1] == "imported:"
    assert done.stderr == ""


@pytest.mark.parametrize("line", ["dmeta train", "", "dmeta", "dmeta train task=../x task.", "'"])
def test_whatever_is_typed_nothing_fails(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["--complete", line])
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("dmeta tr", "train"),
        ("dmeta train algorithm=rep", "reptile"),
        ("dmeta train compute.pl", "compute.plan="),
        ("dmeta train run_dir=x", ""),
    ],
)
def test_bash_is_given_what_follows_the_equals_sign(line: str, reply: str, tmp_path: Path) -> None:
    script = (
        'eval "$(dmeta completion bash)"; COMP_LINE="$1"; COMP_POINT=${#1}; '
        '_dmeta dmeta 2>/dev/null; echo "${COMPREPLY[*]}"'
    )
    program = f'dmeta() {{ "{sys.executable}" -m dmeta "$@"; }}; {script}'
    bash = shutil.which("bash")
    assert bash is not None
    command = [bash, "--norc", "-c", program, "bash", line]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == reply


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["completion", shell])
    script = capsys.readouterr().out
    assert "--complete" in script
    assert "@" not in script.replace("$@", "").replace("@f", "").replace("[@]", "")
    if program := shutil.which(shell):
        checked = [program, "--no-execute"] if shell == "fish" else [program, "-n"]
        subprocess.run(checked, input=script, text=True, check=True)


@pytest.mark.parametrize("words", [["bsh"], ["bash", "zsh"]])
def test_other_shells_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["completion", *words])
    assert stop.value.code == 2
    assert "dmeta completion takes bash, zsh or fish" in capsys.readouterr().err


def _keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key
