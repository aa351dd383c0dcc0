"""Files of a few hundred bytes that would become gigabytes are refused at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dmeta.cli.settings.config_files import config_dir
from dmeta.cli.settings.expansion_limits import MAX_BYTES, check_interpolations, check_yaml
from dmeta.cli.settings.hydra_app import compose

ANCHORS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGED = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 30)
)


def chain(first: str, line: str, length: int = 10) -> str:
    """Lines that each refer to the one before: {0} is its own number, {1} the one before."""
    return first + "".join(line.format(i, i - 1) for i in range(1, length))


INTERPOLATED = chain("a0: x\n", "a{0}: " + "${{a{1}}}" * 9 + "\n")
NODES = chain("a0: {x: 1, y: 2}\n", "a{0}: {{x: '${{a{1}}}', y: '${{a{1}}}'}}\n", 30)
RELATIVE = chain("g:\n  a0: x\n", "  a{0}: " + "${{.a{1}}}" * 9 + "\n")
RESOLVED = chain("a0: x\n", "a{0}: " + "${{oc.select:a{1}}}" * 9 + "\n")
NESTED = "a: b\nb: c\nc: ${${a}}\n"
DEEP = "a: " + "[" * 5000 + "]" * 5000
WIDE = "a: " + "x" * MAX_BYTES

BOMBS = {
    "anchors": (ANCHORS, r"with its aliases .*; write out"),
    "merged": (MERGED, r"with its aliases .*; write out"),
    "itself": ("a: &a [*a]", r"with its aliases"),
    "interpolated": (INTERPOLATED, r"with its interpolations; write out"),
    "groups": (NODES, r"with its interpolations; write out"),
    "relative": (RELATIVE, r"with its interpolations; write out"),
    "by a resolver": (RESOLVED, r"with its interpolations; write out"),
    "nested": (NESTED, r"must name its key itself, got one within another in x\.yaml: \$\{\$\{"),
    "deep": (DEEP, r"with its aliases"),
    "large": (WIDE, r"at most 256 KiB, got x\.yaml"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_what_would_become_gigabytes_is_refused_at_once(name: str) -> None:
    text, message = BOMBS[name]
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        check_yaml("x.yaml", text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", [ANCHORS, INTERPOLATED])
def test_a_preset_is_refused_before_it_is_composed(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(f"# @package _global_\n{text}")
    with pytest.raises(ValueError, match=r"settings must expand to at most 1,000,000 values"):
        compose("train", [f"experiment={file}"])


def test_overrides_are_counted_together() -> None:
    overrides = chain("+x0=y", " +x{0}=" + "${{x{1}}}" * 9).split()
    with pytest.raises(ValueError, match="the settings with its interpolations"):
        compose("train", overrides)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": 1, "b": "${a}", "c": ["${a}", "${b}"], "d": "${.b}"},
        {"root": "${oc.env:DMETA_DATA,null}", "x": "${oc.env:${root},1}"},
        {"a": "${a}", "b": "${nothing}", "c": "$a {b}"},  # refused, if at all, when resolved
    ],
)
def test_ordinary_interpolations_pass(tree: dict[str, Any]) -> None:
    check_interpolations("these", tree)


def test_every_file_of_dmeta_passes() -> None:
    for path in config_dir().rglob("*.yaml"):
        check_yaml(path.name, path.read_text())


def test_what_is_no_yaml_is_left_to_whoever_reads_it() -> None:
    check_yaml("x.yaml", "a: [")
    check_yaml("x.yaml", "")
