from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from dmeta.cli.settings.hydra_app import compose
from dmeta.training.config import run_config
from tests.cluster.files import CLUSTER, README, ROOT, shell_blocks

BLOCKS = shell_blocks(README)
COMMANDS = re.findall(
    r"^(?:.* )?(?:dmeta|dmeta submit|dmeta\.sbatch|\S+/dmeta\.sbatch) ((?:train|tune) .*)$",
    "\n".join(BLOCKS).replace("\\\n", " "),
    flags=re.MULTILINE,
)


def test_there_is_something_to_check() -> None:
    assert len(BLOCKS) >= 10
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_are_sound(block) -> None:
    subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_of_a_run_are_valid(command) -> None:
    verb, *overrides = shlex.split(command, comments=True)
    config = compose(verb, overrides)
    if verb == "train":
        run_config(config)


def test_the_files_that_are_named_are_there() -> None:
    text = README.read_text()
    named = set(re.findall(r"\bcluster/[\w/.]+\w", text))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert linked
    assert [path for path in linked if not (CLUSTER / path).exists()] == []
    ours = {"ray", "kubernetes", "slurm", "container"}
    files = {str(p.relative_to(ROOT)) for name in ours for p in (CLUSTER / name).iterdir()}
    assert files <= named
