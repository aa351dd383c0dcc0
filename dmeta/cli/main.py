"""The command line: `dmeta VERB ...`. Finds the verb; everything else is the verb's."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import FrameType

from dmeta.addresses import redacted
from dmeta.quoting import printable
from dmeta.registry import nearest

VERBS = {
    "train": "meta-train a few-shot learner",
    "tune": "search learning rates, step counts, or any other setting",
    "evaluate": "evaluate a trained run on tasks of unseen classes",
    "embed": "write what a trained network makes of its data set, for task=features",
    "replay": "compute a block of a run again, alone: which task is it that went wrong?",
    "bench": "what a run's choices cost: dmeta bench gradients, peers, plans, ...",
    "submit": "train, tune or evaluate on a Ray cluster: dmeta submit train ...",
    "status": "how a run or a search is doing, while it goes on or afterwards",
    "list": "algorithms, tasks, models and presets",
    "data": "which data is there, and how to get what is missing",
}

CONFIGURED = ("train", "tune", "evaluate", "embed", "replay", "bench")
"""Verbs with settings of their own: configs/VERB.yaml, and VERB_command in dmeta/cli/VERB."""

PLAIN: Mapping[str, Mapping[str, str]] = {
    "list": {},
    "data": {"root": "FOLDER"},
    "status": {"run_dir": "FOLDER", "json": "true", "watch": "true"},
}
"""Verbs without Hydra, and the keys that they take."""

BENCHES = {
    "gradients": "every meta-gradient: seconds, memory, and how far it is from the exact one",
    "peers": "the same work in other libraries: seconds, memory, and whether it is the same",
    "plans": "every execution plan: tasks per second, memory, seconds to compile",
    "profile": "where the time of an outer step goes, with the run's own workers",
    "scale": "how many steps a second the parameter server takes, for any number of workers",
}

SUBMITS = ("train", "tune", "evaluate", "attach", "stop")

USAGE = """usage: dmeta VERB [key=value ...]

{verbs}

`dmeta train` alone trains MAML on the sinusoid; `dmeta VERB --help` shows what can be changed.
--traceback shows where an error came from. Completion: eval "$(dmeta train -sc install=bash)"
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, 1 (the run failed), 2 (wrong input) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    if _completes(arguments):
        return
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE.format(verbs=_verbs()))
        sys.exit(0 if arguments else 2)
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-V", "--version"):
        from dmeta import __version__

        sys.stdout.write(f"dmeta {__version__}\n")
        return
    if verb not in VERBS:
        _fail(f"unknown verb '{verb}'{nearest(verb, list(VERBS))}\n\n{_verbs()}", 2)
    sigterms: Sequence[int] = ()
    try:
        with _sigterm_interrupts() as sigterms:
            if verb == "bench":
                rest = _with_bench(rest)
            _run(verb, rest)
    except KeyboardInterrupt as stop:
        if traceback:
            raise
        notes = getattr(stop, "__notes__", [])
        _fail("; ".join(["interrupted", *map(str, stop.args), *notes]), _exit_code(stop, sigterms))
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
        # None: a handler that was not installed from Python, and can not be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _exit_code(stop: KeyboardInterrupt, heard: Sequence[int]) -> int:
    """As a shell tells it: 128 and the signal's number."""
    number = getattr(stop, "signal_number", None) or (*heard, signal.SIGINT)[0]
    return 128 + int(number)


def _run(verb: str, rest: list[str]) -> None:
    # Hydra then raises what it would print: the message is ours to write.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if verb == "submit":
        from dmeta.cli.submit import submit_command

        if code := submit_command(rest):
            sys.exit(code)
        return
    if verb in CONFIGURED:
        from dmeta.cli.hydra_app import run_as_application

        module = import_module(f"dmeta.cli.{verb}")
        command = getattr(module, f"{verb}_command")
        if verb == "tune":  # what is searched is not for Hydra, which would sweep over it
            rest, command = module.without_space(rest, command)
        sys.argv = [sys.argv[0], *rest]
        run_as_application(verb, command)
        return
    keys = dict(argument.partition("=")[::2] for argument in rest)
    if set(keys) - set(PLAIN[verb]) or len(keys) < len(rest) or not all(keys.values()):
        known = " ".join(f"{key}={value}" for key, value in PLAIN[verb].items()) or "nothing"
        raise ValueError(f"dmeta {verb} takes {known}, got {' '.join(rest)}")
    from dmeta.cli.quoted_arguments import text_of

    texts = {key: text for key, value in keys.items() if (text := text_of(value, key)) is not None}
    if verb == "status":
        from dmeta.cli.status import status_command

        status_command(texts)
        return
    from dmeta.cli.listing import data_command, list_command

    if verb == "data":
        data_command(texts.get("root"))
    else:
        list_command()


def _with_bench(arguments: list[str]) -> list[str]:
    """``gradients key=value`` as Hydra takes it: ``bench=gradients key=value``.

    Beside the other overrides: argparse takes no two groups of them with a flag between.
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


def _completes(arguments: list[str]) -> bool:
    """Answer a shell that asks for completions of a verb's command line (Hydra's protocol)."""
    if not arguments or arguments[0] not in ("-sc", "--shell-completion"):
        return False
    from dmeta.cli.hydra_app import completion_verb, run_as_application, without_verb

    line = os.environ.get("COMP_LINE", "")
    verb = completion_verb(os.environ, VERBS)
    words = line.split()
    inner = {"bench": BENCHES, "submit": SUBMITS}.get(verb or "")
    what = None if inner is None else (words[2:3] or [""])[0]
    if inner is not None and what not in inner:
        sys.stdout.write("\n".join(i for i in inner if i.startswith(what or "")) + "\n")
    elif verb in CONFIGURED or what in CONFIGURED:
        shorter = without_verb(line, str(verb))
        if what is not None:
            shorter = without_verb(shorter, what)
        os.environ["COMP_LINE"] = shorter
        point = int(os.environ.get("COMP_POINT", len(line))) - (len(line) - len(shorter))
        os.environ["COMP_POINT"] = str(point)
        sys.argv = [sys.argv[0], *arguments]
        run_as_application(str(what if verb == "submit" else verb), lambda *_: None)
    elif len(words) <= 2:
        typed = (words[1:] or [""])[0]
        sys.stdout.write("\n".join(v for v in VERBS if v.startswith(typed)) + "\n")
    return True


def _verbs() -> str:
    return _lines(VERBS)


def _lines(words: Mapping[str, str]) -> str:
    return "\n".join(f"  {word:10} {what}" for word, what in words.items())


def _fail(message: str, code: int) -> None:
    # It may quote what a file holds, and an address that was typed.
    lines = (printable(line) for line in redacted(message).split("\n"))
    sys.stderr.write("dmeta: " + "\n".join(lines) + "\n")
    sys.exit(code)
