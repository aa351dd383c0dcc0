"""A wrong setting is answered before anything that takes seconds is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SLOW = ("torch", "ray", "matplotlib", "plotly", "jinja2", "tensorboardX", "torchvision")

_PROGRAM = """
import sys
from dmeta.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    print("exit code", stop.code)
print("imported:", *(name for name in {slow!r} if name in sys.modules))
"""


def answer(folder: Path, *words: str) -> tuple[str, str]:
    """What is said on standard error, and on standard output, in a new process."""
    program = _PROGRAM.format(slow=_SLOW)
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    return done.stderr, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train algorthm=maml", "unknown key 'algorthm' (did you mean 'algorithm'?)"),
        ("train algorithm=mmaml", "did you mean 'maml'"),
        ("train outer.lr=abc", "outer.lr must be a number, got 'abc'"),
        ("train steps=-1", "steps must be >= 1, got -1"),
        ("train algorithm.inner_lrr=0.1", "did you mean 'algorithm.inner_lr'"),
        ("tune step=3", "did you mean 'steps'"),
        ("tune outer.lr=abc seed=0,1", "outer.lr must be a number, got 'abc'"),
        ("tune search.num_trials=0", "search.num_trials must be >= 1 or null, got 0"),
        ("evaluate num_task=3", "did you mean 'num_tasks'"),
        ("bench plans bench.repeat=3", "did you mean 'bench.repeats'"),
        ("trian", "did you mean 'train'"),
    ],
)
def test_a_wrong_setting_is_refused_without_slow_imports(
    line: str, message: str, tmp_path: Path
) -> None:
    err, out = answer(tmp_path, *line.split())
    assert message in err
    assert out.splitlines() == ["exit code 2", "imported:"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_option_of_a_method_is_refused_without_ray_or_figures(tmp_path: Path) -> None:
    err, out = answer(tmp_path, "train", "algorithm.inner_lr=abc")
    assert "algorithm.inner_lr must be a number, got 'abc'" in err
    assert "exit code 2" in out
    imported = out.splitlines()[-1].split()[1:]
    assert not set(imported) & {"ray", "matplotlib", "torchvision"}
