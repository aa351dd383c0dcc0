"""Slurm's commands, played on one machine: every node is this one.

Each writes down the words that it was called with. Also a `ray`, a `dmeta` and a `python` that only
pretend, for tests of the script's own course.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "dmeta.sbatch"
JOB = "4242"

_SAYS = 'echo "${0##*/} $*" >>"$FAKE_SLURM/calls.txt"\n'

# One task after the other is started, all run together, and a SIGTERM reaches each, as with srun's.
_SRUN = """
num=1
while [[ $1 == --* ]]; do
    [[ $1 != --ntasks=* ]] || num=${1#*=}
    shift
done
tasks=()
trap 'kill -TERM "${tasks[@]}"' TERM
for ((i = 0; i < num; i++)); do "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do while kill -0 "$task" 2>/dev/null; do wait "$task" || true; done; done
"""

_SCONTROL = 'case $1 in show) tr , "\\n" <<<"$3" ;; esac\n'

# `ray start` blocks until it is told to end, unless it is to fail. The head answers once it is up.
_RAY = """
[[ $1 != health-check ]] || exec test -e "$FAKE_SLURM/head"
stat --format='%a %n' "$RAY_AUTH_TOKEN_PATH" "${RAY_AUTH_TOKEN_PATH%/*}" >>"$FAKE_SLURM/modes.txt"
[[ -z ${FAKE_RAY_FAILS-} ]] || { echo "no port is free"; exit 1; }
mkdir -p "$RAY_TMPDIR"
trap 'echo "ray ended" >>"$FAKE_SLURM/calls.txt"; exit 0' TERM
[[ $2 != --head ]] || touch "$FAKE_SLURM/head"
touch "$FAKE_SLURM/node.$$"
while :; do sleep 0.1; done
"""

# Stops when it is told to, as the real one does: 143 of SIGTERM.
_DMETA = """
trap 'exit 143' TERM
echo "dmeta at work" >>"$FAKE_SLURM/calls.txt"
for ((i = 0; i < ${FAKE_DMETA_LASTS-0}; i++)); do sleep 0.1; done
exit "${FAKE_DMETA_CODE-0}"
"""

# `python - NUM` waits until so many nodes are there.
_PYTHON = f"""
[[ $1 == - ]] || exec {sys.executable} "$@"
until nodes=("$FAKE_SLURM"/node.*) && ((${{#nodes[@]}} >= $2)); do sleep 0.05; done
"""


def slurm(folder: Path, *, plays_ray: bool) -> dict[str, str]:
    """The environment in which Slurm would start the script, for two nodes.

    Args:
        folder: where the commands and what they write down are.
        plays_ray: `ray`, `dmeta` and the script's own `python` are played, too.
    """
    commands = {"srun": _SRUN, "scontrol": _SCONTROL}
    if plays_ray:
        commands |= {"ray": _RAY, "dmeta": _DMETA, "python": _PYTHON}
    (folder / "bin").mkdir(parents=True)
    for name, text in commands.items():
        path = folder / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{_SAYS if name != 'python' else ''}{text}")
        path.chmod(0o755)
    here = Path(sys.executable).parent  # a virtual environment that is not active
    return os.environ | {
        "PATH": f"{folder / 'bin'}:{here}:{os.environ['PATH']}",
        "FAKE_SLURM": str(folder),
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "node1,node2",
        "SLURM_CPUS_PER_TASK": "1",
        "DMETA_STATE": str(folder / "state"),
        "DMETA_HEAD_IP": "127.0.0.1",
    }


def sbatch(folder: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """Start the script as Slurm would; what it says is in one pipe."""
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def calls(folder: Path) -> list[str]:
    """What was called, a line each."""
    path = folder / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []
