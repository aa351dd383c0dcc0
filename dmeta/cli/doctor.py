"""`dmeta doctor`: what of this machine keeps dmeta from working well, and what to do about it."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from dmeta.addresses import folder_here
from dmeta.cli.doctor_checks import machine as doctor_machine
from dmeta.cli.doctor_checks import software as doctor_software
from dmeta.cli.doctor_checks.finding import Finding, Level
from dmeta.formatting import safe_text

DOCTOR_USAGE = """usage: dmeta doctor [run_dir=FOLDER] [--json]

Checks this machine: ok, warning or problem, and for the last two what to do. The exit code is 1 if
there is a problem. run_dir is where runs will be written (default: ./runs).
"""

_COLOURS: Mapping[Level, str] = {"ok": "green", "warning": "yellow", "problem": "red"}

Check = Callable[[], Finding]


def doctor_command(arguments: Sequence[str]) -> int:
    """The verb: one line for each check; returns the exit code."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(DOCTOR_USAGE)
        return 0
    rest = [word for word in arguments if word not in ("--json", "json=true")]
    folders = [word.partition("=")[2] for word in rest if word.startswith("run_dir=")]
    if len(folders) < len(rest) or not all(folders):
        raise ValueError(f"dmeta doctor takes run_dir=FOLDER and --json, got {' '.join(rest)}")
    run_dir = folder_here(folders[-1] if folders else "runs", "run_dir")
    findings = run_checks(checks(run_dir))
    if len(rest) < len(arguments):
        print(json.dumps(plain_checks(findings), indent=2))
    else:
        _show(findings, Console())
    return 1 if any(each.level == "problem" for each in findings.values()) else 0


def checks(run_dir: Path) -> dict[str, Check]:
    """Every check by name, in the order in which they are shown.

    Args:
        run_dir: where runs will be written.
    """
    return {
        "python": doctor_software.check_python,
        "torch": doctor_software.check_torch,
        "GPU": doctor_software.check_gpu,
        "torchvision": doctor_software.check_torchvision,
        "ray": doctor_software.check_ray,
        "compiler": doctor_software.check_compiler,
        "CPUs": doctor_machine.check_cpus,
        "memory": doctor_machine.check_memory,
        "shared memory": doctor_machine.check_shared_memory,
        "open files": doctor_machine.check_open_files,
        "disk": functools.partial(doctor_machine.check_disk, run_dir),
        "temporary": doctor_machine.check_temporary,
        "cache": doctor_machine.check_cache,
        "Ray token": doctor_machine.check_token,
        "data": doctor_machine.check_data,
    }


def run_checks(wanted: Mapping[str, Check]) -> dict[str, Finding]:
    """What each check finds; one that fails is a warning, and the others go on."""
    found = {}
    for name, check in wanted.items():
        try:
            found[name] = check()
        except Exception as error:  # whatever it is, it is news of this machine
            found[name] = Finding(
                "warning",
                f"could not be checked: {type(error).__name__}: {error}",
                "correct what the message names, or report it",
            )
    return found


def plain_checks(findings: Mapping[str, Finding]) -> dict[str, object]:
    """The findings as JSON holds them."""
    return {
        "ok": all(each.level != "problem" for each in findings.values()),
        "checks": [{"name": name, **dataclasses.asdict(f)} for name, f in findings.items()],
    }


def _show(findings: Mapping[str, Finding], console: Console) -> None:
    for name, finding in findings.items():
        colour = _COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level:8}[/{colour}] {name:14}", end="")
        _say(console, finding.found)
        if finding.remedy:
            _say(console, f"{'':9}fix: {finding.remedy}")
    levels = [finding.level for finding in findings.values()]
    counts = (f"{levels.count(level)} {level}" for level in ("problem", "warning"))
    console.print(f"\n{', '.join(counts)}, {levels.count('ok')} ok")


def _say(console: Console, line: str) -> None:
    console.print(safe_text(line, console), soft_wrap=True)
