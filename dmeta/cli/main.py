"""The command line: `dmeta VERB ...`. Finds the verb; everything else is the verb's."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

from dmeta.addresses import redacted
from dmeta.cli.verbs import BENCHES, CONFIGURED, DATA_CHECK, PLAIN, QUERY, VERBS, WORDS
from dmeta.quoting import printable
from dmeta.registry import nearest

if TYPE_CHECKING:
    from dmeta.cli.settings.hydra_app import Job

USAGE = """usage: dmeta VERB [key=value ...]

{verbs}

`dmeta train` alone trains MAML on the sinusoid; `dmeta VERB --help` shows what can be changed.
--traceback shows where an error came from. `dmeta completion bash` (zsh, fish) completes all of it.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, 1 (the run failed), 2 (wrong input) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    if arguments[:1] == [QUERY]:
        from dmeta.cli.completion import print_candidates

        print_candidates(arguments[1:])
        return
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE.format(verbs=_verbs()))
        sys.exit(0 if arguments else 2)
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-V", "--version"):
        from dmeta.cli.versions import version_lines

        sys.stdout.write("\n".join(version_lines()) + "\n")
        return
    if verb not in VERBS:
        _fail(f"unknown verb '{verb}'{nearest(verb, list(VERBS))}\n\n{_verbs()}", 2)
    sigterms: Sequence[int] = ()
    try:
        with _sigterm_interrupts() as sigterms, _plain_warnings():
            if verb == "bench":
                rest = _with_bench(rest)
            if verb == "data" and rest and rest[0].isalpha():
                verb, rest = _with_check(rest)
            _run(verb, rest)
    except KeyboardInterrupt as stop:
        if traceback:
            raise
        notes = getattr(stop, "__notes__", [])
        _fail("; ".join(["interrupted", *map(str, stop.args), *notes]), _exit_code(stop, sigterms))
    except BrokenPipeError:  # what reads our output has ended: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if traceback:
            raise
        from dmeta.cli.errors import format_error

        _fail(*format_error(error, verb, rest))


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[list[int]]:
    """SIGTERM stops what was started as Ctrl-C does; yields where it is noted."""
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's
        heard.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield heard
    finally:
        # None: a handler that was not installed from Python, and cannot be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings say what is wrong, not which line of dmeta says so."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"dmeta: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _exit_code(stop: KeyboardInterrupt, heard: Sequence[int]) -> int:
    """As a shell tells it: 128 and the signal's number."""
    number = getattr(stop, "signal_number", None) or (*heard, signal.SIGINT)[0]
    return 128 + int(number)


def _run(verb: str, rest: list[str]) -> None:
    # Hydra then raises what it would print: the message is ours to write.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if verb in CONFIGURED:
        from hydra.core.utils import env_override

        jobs, more = _checked_jobs(verb, rest)
        if not jobs:  # it was a question: --help, --cfg
            return
        command = getattr(import_module(f"dmeta.cli.{verb}"), f"{verb}_command")
        failures: list[Exception] = []
        for number, job in enumerate(jobs, start=1):
            if len(jobs) > 1:
                print(f"run {number} of {len(jobs)}: {' '.join(job.overrides)}", flush=True)
            try:
                with env_override(job.environment):
                    command(job.settings, job.overrides, *more)
            except Exception as error:  # the rest of a sweep runs
                if len(jobs) > 1:
                    error.add_note(f"in the run of {' '.join(job.overrides)}")
                failures.append(error)
        if failures:
            raise failures[0]
        return
    if verb in WORDS:
        if code := getattr(import_module(f"dmeta.cli.{verb}"), f"{verb}_command")(rest):
            sys.exit(code)
        return
    texts = _texts(verb, rest)
    if verb == "status":
        from dmeta.cli.status import status_command

        status_command(texts)
        return
    from dmeta.cli.listing import data_command, list_command

    if verb == "data":
        data_command(texts.get("root"))
    else:
        list_command()


def _texts(verb: str, arguments: Sequence[str]) -> dict[str, str]:
    """The keys and values of a verb without Hydra."""
    if any(argument in ("-h", "--help") for argument in arguments):
        known = "".join(f" [{key}={value}]" for key, value in PLAIN[verb].items())
        sys.stdout.write(f"usage: dmeta {verb}{known}\n\n{VERBS[verb]}\n")
        sys.exit(0)
    keys = dict(argument.partition("=")[::2] for argument in arguments)
    if set(keys) - set(PLAIN[verb]) or len(keys) < len(arguments) or not all(keys.values()):
        known = " ".join(f"{key}={value}" for key, value in PLAIN[verb].items()) or "nothing"
        raise ValueError(f"dmeta {verb} takes {known}, got {' '.join(arguments)}")
    from dmeta.cli.settings.quoted_arguments import text_of

    return {key: text for key, value in keys.items() if (text := text_of(value, key)) is not None}


def _checked_jobs(verb: str, words: Sequence[str]) -> tuple[Sequence[Job], Sequence[Any]]:
    """The runs that a command line asks for, and what the verb takes besides their settings.

    They are checked here: the verb is imported after that, with torch and Ray.
    """
    from dmeta.cli.settings.early_checks import check_early
    from dmeta.cli.settings.hydra_app import composed_jobs

    more: Sequence[Any] = ()
    if verb == "tune":  # what is searched is not for Hydra, which would sweep over it
        from dmeta.cli.settings.sweeps import without_space

        words, more = without_space(words)
    jobs = composed_jobs(verb, words)
    for job in jobs:
        check_early(verb, job.settings, *more)
    return jobs, more


def _with_bench(arguments: list[str]) -> list[str]:
    """``gradients key=value`` as Hydra takes it: ``bench=gradients key=value``.

    Next to the other overrides: argparse takes no two groups of them with a flag between.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: dmeta bench WHAT [key=value ...]\n\n{_lines(BENCHES)}\n")
        sys.exit(0 if arguments else 2)
    what, rest = arguments[0], arguments[1:]
    if what not in BENCHES:
        raise ValueError(
            f"dmeta bench takes {' or '.join(BENCHES)}, got '{what}'{nearest(what, list(BENCHES))}"
        )
    overrides = (i for i, word in enumerate(rest) if "=" in word and not word.startswith("-"))
    at = next(overrides, len(rest))
    return [*rest[:at], f"bench={what}", *rest[at:]]


def _with_check(arguments: list[str]) -> tuple[str, list[str]]:
    """``dmeta data check`` as a verb of its own."""
    if arguments[0] != "check":
        raise ValueError(
            f"dmeta data takes check task=..., or root=FOLDER, got '{arguments[0]}'"
            f"{nearest(arguments[0], ['check'])}"
        )
    return DATA_CHECK, arguments[1:]


def _verbs() -> str:
    return _lines(VERBS)


def _lines(words: Mapping[str, str]) -> str:
    return "\n".join(f"  {word:10} {what}" for word, what in words.items())


def _fail(message: str, code: int) -> None:
    # It may quote what a file holds, and an address that was typed.
    lines = (printable(line) for line in redacted(message).split("\n"))
    sys.stderr.write("dmeta: " + "\n".join(lines) + "\n")
    sys.exit(code)
