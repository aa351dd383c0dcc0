"""Values on the command line: quoted so that they are read back, whatever they hold."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dmeta.cli.settings.quoted_arguments import text_of
from dmeta.quoting import (
    as_override,
    as_text,
    override_word,
    overrides_of,
    shell_word,
    unquoted,
)

TEXTS = st.text(alphabet="ab\\\"'${}[]=,%@:~# \n\té") | st.text(
    alphabet=st.characters(codec="utf-8")
)
PARSER = OverridesParser.create()


def composed(override: str) -> Any:
    """What Hydra and OmegaConf make of a value."""
    value = PARSER.parse_override(override).value()
    return OmegaConf.to_container(OmegaConf.create({"key": value}), resolve=True)["key"]  # type: ignore[call-overload,index]


@pytest.mark.slow
@settings(max_examples=300)
@given(text=TEXTS)
@example("null")
@example("1e3")
@example("${oc.env:HOME}")
@example("\\${x}\\")
@example('"quoted"')
def test_a_text_is_itself_again(text: str) -> None:
    if text == "???":  # OmegaConf has no other word for what is missing
        return
    assert composed(as_override("key", text)) == text
    assert composed(as_override("key", [text, {"a": text}])) == [text, {"a": text}]
    within = as_override("key", text).partition("=")[2]
    assert text_of(within, "key") == text


@pytest.mark.parametrize("value", [None, True, False, 0, -3, 10**20, 1e-7, 0.1, "", [], [1, "1"]])
def test_a_value_keeps_its_type(value: Any) -> None:
    found = composed(as_override("key", value))
    assert (found, type(found)) == (value, type(value))


@settings(max_examples=300)
@given(text=TEXTS)
def test_what_is_within_quotes_is_what_hydra_takes_it_for(text: str) -> None:
    for quote in ("'", '"'):
        value = f"{quote}{text}{quote}"
        try:
            wanted = PARSER.parse_override(f"key={value}")._value
        except HydraException:
            continue
        found = unquoted(value)
        if getattr(wanted, "text", None) is not None:
            assert found == wanted.text


@settings(max_examples=300)
@given(text=TEXTS)
@example(" a ")
@example("a=b,c [d] (e) 'f")
def test_a_text_needs_no_quotes_on_the_command_line(text: str) -> None:
    said = f"run_dir={text}"
    if "${" in text:
        return
    assert composed(as_text(said)) == text_of(text, "run_dir")
    assert as_text(as_text(said)) == as_text(said)
    assert as_text(f"loss={text}") == f"loss={text}"


@settings(max_examples=300)
@given(text=TEXTS)
@example("null")
@example("'a'")
@example("${seed}")
def test_a_word_that_is_shown_can_be_pasted(text: str) -> None:
    word = override_word("run_dir", text)
    if not text.isprintable():
        assert word.startswith("$'run_dir=")
        return
    (said,) = shlex.split(word)
    if text != "???":
        assert composed(as_text(said)) == text
    assert text_of(said.partition("=")[2], "run_dir") == text


@pytest.mark.parametrize("text", ["a\x1b[31m'b\\", "tab\tnew\nline", "\u0085\u202e", "é\x01"])
def test_control_characters_are_shown_for_bash(text: str) -> None:
    word = shell_word(text)
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert done.stdout.decode() == text


def test_the_keys_of_a_group_are_given_one_by_one() -> None:
    settings = {"eval": {"every": 5, "seed": 1}, "loss": "mse", "search.space": {}}
    assert overrides_of(settings) == ["eval.every=5", "eval.seed=1", "loss=mse", "search.space={}"]


def test_an_interpolation_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run_dir must be a text whose \$\{\.\.\.\} have a value"):
        text_of("${oc.env:NO_SUCH_VARIABLE}", "run_dir")
    assert text_of("${oc.env:NO_SUCH_VARIABLE,here}/a=b", "run_dir") == "here/a=b"
