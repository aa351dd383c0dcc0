"""`dmeta doctor`: what it finds, what it advises, and that no check stops the others."""

from __future__ import annotations

import json
import resource
import shutil
import stat
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dmeta.cli import doctor, main
from dmeta.cli.doctor_checks import machine as doctor_machine
from dmeta.cli.doctor_checks import software as doctor_software
from dmeta.cli.doctor_checks.finding import Finding
from dmeta.cli.doctor_checks.software import requirement

GIB = 1 << 30


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def run(*arguments: str) -> int:
    try:
        main.main(["doctor", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def two_checks(monkeypatch: pytest.MonkeyPatch) -> dict[str, doctor.Check]:
    """Checks in place of the real ones."""
    own: dict[str, doctor.Check] = {
        "one": lambda: Finding("ok", "as it should be"),
        "two": lambda: Finding("warning", "slow", "make it quicker"),
    }
    monkeypatch.setattr(doctor, "checks", lambda run_dir: own)
    return own


def test_each_check_is_a_line_and_a_remedy(
    two_checks: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "ok       one           as it should be\n" in out
    assert "warning  two           slow\n         fix: make it quicker\n" in out
    assert "0 problem, 1 warning, 1 ok" in out


def test_a_problem_is_exit_code_1(
    two_checks: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    two_checks["three"] = lambda: Finding("problem", "broken", "repair it")
    assert run("--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["checks"][2] == {
        "name": "three",
        "level": "problem",
        "found": "broken",
        "remedy": "repair it",
    }


def test_a_check_that_fails_does_not_stop_the_others(
    two_checks: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Finding:
        raise OSError("no such device")

    checks = {"broken": broken, **two_checks}
    found = doctor.run_checks(checks)
    assert list(found) == ["broken", "one", "two"]
    assert found["broken"].level == "warning"
    assert found["broken"].found == "could not be checked: OSError: no such device"


def test_the_real_checks_find_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("--json", f"run_dir={tmp_path}")
    told = json.loads(capsys.readouterr().out)
    found = {check["name"]: check for check in told["checks"]}
    assert list(found) == list(doctor.checks(tmp_path))
    assert code == (0 if told["ok"] else 1)
    assert found["torch"]["found"].startswith(torch.__version__.partition("+")[0])
    assert found["disk"]["found"].endswith(f"free for {tmp_path}")
    assert not [name for name, check in found.items() if "could not" in check["found"]]
    assert all(check["remedy"] for check in told["checks"] if check["level"] != "ok")


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--jsn") == 2
    assert "dmeta doctor takes run_dir=FOLDER and --json, got --jsn" in capsys.readouterr().err
    assert run("run_dir=s3://bucket/runs") == 2
    assert "run_dir must be" in capsys.readouterr().err
    assert run("--help") == 0
    assert "usage: dmeta doctor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("free", "level"), [(10 * GIB, "ok"), (GIB, "warning"), (1 << 20, "problem")]
)
def test_a_disk_has_room_or_not(
    free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(100 * GIB, 100 * GIB - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = doctor_machine.check_disk(tmp_path / "not" / "yet")
    assert found.level == level
    assert ("delete files" in found.remedy) == (level != "ok")


def test_a_run_folder_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = doctor_machine.check_disk(tmp_path / "file" / "runs")
    assert found.level == "problem"
    assert "is a file" in found.found


def test_a_full_temporary_folder_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    usage = Usage(1000 * GIB, 990 * GIB, 10 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = doctor_machine.check_temporary()
    assert (found.level, str(tmp_path) in found.found) == ("warning", True)
    assert "RAY_TMPDIR" in found.remedy


def test_the_cache_is_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("DMETA_CACHE", str(tmp_path / "cache"))
    found = doctor_machine.check_cache()
    assert (found.level, "DMETA_CACHE" in found.remedy) == ("problem", True)


def test_small_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(doctor_machine, "available_memory_bytes", lambda: 100 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(64 << 20, 0, 64 << 20))
    found = doctor_machine.check_shared_memory()
    assert found.level == "warning"
    assert "--shm-size=30g" in found.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(31 * GIB, 0, 31 * GIB))
    assert doctor_machine.check_shared_memory().level == "ok"


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "available_memory_bytes", lambda: GIB)
    assert doctor_machine.check_memory().level == "warning"


@pytest.mark.parametrize(("hard", "level"), [(100, "problem"), (65536, "ok"), (-1, "ok")])
def test_few_open_files_are_a_problem(
    hard: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, hard))
    found = doctor_machine.check_open_files()
    assert found.level == level
    assert ("ulimit -Hn 8192" in found.remedy) == (level == "problem")


def test_a_token_that_others_can_read_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token-of-a-test")
    token.chmod(0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setattr("dmeta.runtime.cluster.tokens.our_token", lambda: "secret-token-of-a-test")
    found = doctor_machine.check_token()
    assert (found.level, found.remedy) == ("warning", f"chmod 600 {token}")
    token.chmod(stat.S_IRUSR)
    found = doctor_machine.check_token()
    assert found.level == "ok"
    assert "secret" not in found.found
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert doctor_machine.check_token().remedy == "unset RAY_AUTH_MODE"


def test_missing_data_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMETA_DATA", str(tmp_path))
    found = doctor_machine.check_data()
    assert found.level == "warning"
    assert "nothing complete, aircraft, chestx, cifar_fs, " in found.found
    assert "dmeta data" in found.remedy


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = doctor_software.check_compiler()
    assert found.level == "warning"
    assert "compute.plan" in found.found


def test_a_gpu_that_torch_cannot_use_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor_software, "_DEVICES", tmp_path)
    assert doctor_software.check_gpu().level == "ok"
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    found = doctor_software.check_gpu()
    assert (found.level, "for the CPU alone" in found.found) == ("warning", True)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert "driver" in doctor_software.check_gpu().remedy


def test_an_old_python_and_missing_packages_are_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_software, "version_of", lambda package: None)
    for check in (doctor_software.check_torch, doctor_software.check_ray):
        found = check()
        assert found.level == "problem"
        assert found.remedy.startswith("pip install '")
    assert doctor_software.check_torchvision().level == "warning", "only downloads need it"
    monkeypatch.setattr(sys, "version_info", (3, 9))
    assert doctor_software.check_python().remedy == "install Python 3.11 or later"


def test_a_version_outside_the_tested_range_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_software, "version_of", lambda package: "1.0")
    assert doctor_software.check_ray().level == "warning"


def test_requirements_are_read_from_metadata() -> None:
    lines = ["ray[default,tune]<2.70,>=2.60", "ray>=3; extra == 'new'", "torch>=2"]
    found = requirement("ray", lines)
    assert found is not None
    assert str(found.specifier) == "<2.70,>=2.60"
    assert requirement("jax", lines) is None
