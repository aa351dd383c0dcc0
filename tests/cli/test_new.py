"""`dmeta new`: what it writes works at once, and nothing is overwritten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dmeta
from dmeta.cli import main
from dmeta.cli.new import checkout_at
from dmeta.cli.verbs import KINDS

ROOT = Path(dmeta.__file__).parent.parent
in_a_checkout = pytest.mark.skipif(checkout_at(ROOT) is None, reason="dmeta is installed")


def new(*arguments: str) -> int:
    try:
        main.main(["new", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def run_tests(folder: Path, *tests: str, paths: tuple[Path, ...]) -> str:
    """What pytest says of generated tests, in a new process."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that is no checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that is a copy of dmeta's checkout."""
    for name in ("dmeta", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@in_a_checkout
def test_in_a_checkout_it_becomes_one_of_dmetas_own(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in KINDS:
        assert new(kind, f"own_{kind}") == 0
    out = capsys.readouterr().out
    assert "wrote     tests/tasks/test_own_task.py" in out
    assert "changed   dmeta/models/__init__.py" in out
    assert "dmeta train algorithm=own_algorithm" in out
    tests = [f"tests/{kind}s/test_own_{kind}.py" for kind in KINDS]
    assert "passed" in run_tests(checkout, *tests, paths=(checkout,))


@pytest.mark.slow
def test_elsewhere_it_becomes_a_package_that_dmeta_finds(elsewhere: Path) -> None:
    for kind in KINDS:
        assert new(kind, f"own_{kind}") == 0
    projects = [elsewhere / f"dmeta-own-{kind}" for kind in KINDS]
    for project in projects:
        _install(project, elsewhere / "site")
    tests = [f"{project.name}/tests" for project in projects]
    paths = (*projects, elsewhere / "site", ROOT)
    assert "passed" in run_tests(elsewhere, *tests, paths=paths)


def _install(project: Path, site: Path) -> None:
    """Have Python find the entry points of a project, as an installer would."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (info / "METADATA").write_text(head)
    lines = []
    for group, points in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete(
    kind: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(kind, "my_own", f"--folder={elsewhere / 'made'}") == 0
    project = elsewhere / "made" / "dmeta-my-own"
    files = {p.relative_to(project).as_posix() for p in project.rglob("*") if p.is_file()}
    module = f"dmeta_my_own/{kind}.py"
    known = {"pyproject.toml", "README.md", "dmeta_my_own/__init__.py", module}
    assert files == {*known, "tests/test_my_own.py"}
    for name in files:
        text = (project / name).read_text()
        assert "$" not in text
        if name.endswith(".py"):
            compile(text, name, "exec")
    readme = (project / "README.md").read_text()
    for command in ("pip install -e", f"dmeta train {kind}=my_own", "python -m pytest"):
        assert command in readme
    out = capsys.readouterr().out
    assert "cd made/dmeta-my-own" in out or f"cd {project}" in out


@in_a_checkout
def test_the_registry_line_is_added_at_the_end(checkout: Path) -> None:
    registry = checkout / "dmeta" / "models" / "__init__.py"
    before = registry.read_text()
    assert new("model", "wide") == 0
    after = registry.read_text()
    assert after.startswith(before.removesuffix("    },\n)\n"))
    assert '"wide": LazyEntry(\n            "dmeta.models.wide:wide",' in after
    compile(after, "registry", "exec")
    assert new("model", "wider") == 0
    assert '"wide"' in registry.read_text()


@in_a_checkout
def test_a_checkout_that_is_not_wanted_stays_as_it_is(checkout: Path) -> None:
    registry = checkout / "dmeta" / "models" / "__init__.py"
    before = registry.read_text()
    assert new("model", "wide", "--plugin") == 0
    assert registry.read_text() == before
    assert (checkout / "dmeta-wide" / "pyproject.toml").is_file()


def test_nothing_is_overwritten(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new("model", "wide") == 0
    module = elsewhere / "dmeta-wide" / "dmeta_wide" / "model.py"
    module.write_text("mine")
    (elsewhere / "dmeta-wide" / "README.md").unlink()
    capsys.readouterr()
    assert new("model", "wide") == 2
    assert "must not exist yet" in capsys.readouterr().err
    assert module.read_text() == "mine"
    assert not (elsewhere / "dmeta-wide" / "README.md").exists(), "all files or none"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("algorithm My-Method", "NAME must be a lower-case Python identifier .* 'My-Method'"),
        ("algorithm 3maml", "NAME must be a lower-case"),
        ("algorithm ../maml", "NAME must be a lower-case"),
        ("model class", "NAME must be a lower-case"),
        ("model null", "NAME must be a lower-case"),
        (f"model {'m' * 41}", "at most 40 characters"),
        ("algorithm maml", "NAME must be new, got 'maml'"),
        ("task sinusoid", "NAME must be new, got 'sinusoid'"),
        ("algorithm tensor", r"NAME must differ from what the new module .* \(Tensor\)"),
        ("model math", r"NAME must differ from what the new module .* \(math\)"),
        ("model hidden", r"NAME must differ from what"),
        ("algoritm mine", r"got 'algoritm' \(did you mean 'algorithm'\?\)"),
        ("algorithm", "dmeta new takes KIND NAME"),
        ("algorithm one two", "dmeta new takes KIND NAME"),
        ("algorithm mine --plug", "dmeta new takes KIND NAME"),
        ("algorithm mine --folder=", "dmeta new takes KIND NAME"),
        ("algorithm mine --folder=/dev/null/x", "must be a folder that can be written to"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(
    line: str, message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(*line.split()) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert list(elsewhere.iterdir()) == []


def test_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert new("--help") == 0
    assert new() == 2
    assert capsys.readouterr().out.count("usage: dmeta new algorithm|task|model NAME") == 2
