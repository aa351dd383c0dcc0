"""The chaos runner by hand: `python -m tests.chaos list | run | at | soak`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.cluster import Kind
from tests.chaos.experiment import Case, disk, observe
from tests.chaos.faults import FAULTS, USUAL, Conditions, Fault
from tests.chaos.namespaces import why_not
from tests.chaos.processes import none_left
from tests.chaos.report import Outcome, summary, table, write
from tests.chaos.schedule import Event, mixed, parse, repeated
from tests.chaos.training import clean_digest

_FIRST_S = 5.0
"""Seconds of undisturbed steps before the first fault."""

_SOAK_FIRST_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; 1 if a training did not end, ended with other bits, or left a process."""
    arguments = _parser().parse_args(argv)
    if arguments.verb == "list":
        for fault in FAULTS.values():
            print(f"{fault.name:20} {fault.needs:11} {fault.words}")
        return 0
    cases = {"run": _single_cases, "at": _scheduled_case, "soak": _soak_case}[arguments.verb]
    outcomes: list[Outcome] = []
    with none_left():
        for case in cases(arguments):
            print(f"== {case.title}", flush=True)
            outcomes.append(_observed(case))
            print(summary(outcomes[-1]), flush=True)
            if arguments.out is not None:  # what is there so far
                write(outcomes, arguments.out)
    print("\n" + table(outcomes))
    return int(any(not o.same_bits or o.orphans for o in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the faults")
    run = verbs.add_parser("run", help="one training for each fault, or for `all`")
    run.add_argument("faults", nargs="+", metavar="FAULT", choices=[*FAULTS, "all"])
    run.add_argument("--seconds", type=float, default=20, help="of training from the first fault")
    at = verbs.add_parser("at", help="one training, its faults given as FAULT@STEP or FAULT@3.5s")
    at.add_argument("events", nargs="+", metavar="FAULT@STEP")
    at.add_argument("--steps", type=int, help="of the whole training; else until the faults end")
    at.add_argument("--cluster", type=Kind, choices=list(Kind), default=Kind.RAYLETS)
    soak = verbs.add_parser("soak", help="mixed faults on one long training")
    soak.add_argument("--minutes", type=float, default=30)
    soak.add_argument("--every", type=float, default=15, help="seconds between faults")
    for verb in (run, at, soak):
        verb.add_argument("--seed", type=int, default=0)
        help_ = "a setting of dmeta train that decides no bit"
        verb.add_argument("--set", action="append", default=[], dest="settings", help=help_)
        verb.add_argument("--stalled", type=float, default=60, help="seconds that are a hang")
        verb.add_argument("--out", type=Path, help="a JSON file")
    return parser


def _single_cases(arguments: argparse.Namespace) -> list[Case]:
    names = list(FAULTS) if "all" in arguments.faults else arguments.faults
    cases = []
    for name in names:
        fault = FAULTS[name]
        if missing := _why_not(fault):
            print(f"== {name}: not possible here: {missing}", flush=True)
            continue
        until_s = _FIRST_S + arguments.seconds
        events = repeated(name, _FIRST_S, fault.every_s, until_s) if fault.apply else ()
        cases.append(_case(name, fault.needs, events, fault.conditions, arguments,
                           settle_s=5 if fault.every_s else arguments.seconds))  # fmt: skip
    return cases


def _scheduled_case(arguments: argparse.Namespace) -> list[Case]:
    events = parse(arguments.events)
    for event in events:
        if event.fault not in FAULTS or FAULTS[event.fault].apply is None:
            raise SystemExit(f"no such fault, or not one with a moment: {event.fault}")
    title = " ".join(arguments.events)
    return [_case(title, arguments.cluster, events, USUAL, arguments, steps=arguments.steps)]


def _soak_case(arguments: argparse.Namespace) -> list[Case]:
    weights = {fault.name: fault.weight for fault in FAULTS.values() if fault.weight}
    until_s = _SOAK_FIRST_S + 60 * arguments.minutes
    events = mixed(weights, arguments.seed, _SOAK_FIRST_S, arguments.every, until_s)
    return [_case("soak", Kind.RAYLETS, events, USUAL, arguments, log_every=10)]


def _case(
    title: str,
    kind: Kind,
    events: tuple[Event, ...],
    conditions: Conditions,
    arguments: argparse.Namespace,
    *,
    steps: int | None = None,
    settle_s: float = 5,
    log_every: int = 1,
) -> Case:
    return Case(
        title=title,
        kind=kind,
        events=events,
        conditions=conditions,
        settings=tuple(arguments.settings),
        steps=steps,
        settle_s=settle_s,
        log_every=log_every,
        stalled_after_s=arguments.stalled,
        seed=arguments.seed,
    )


def _why_not(fault: Fault) -> str:
    try:
        with disk(fault.conditions.disk_bytes):
            return why_not() if fault.needs is Kind.NAMESPACES else ""
    except RuntimeError as error:  # of mount
        return str(error)


def _observed(case: Case) -> Outcome:
    """Run a case, and an undisturbed training of as many steps."""
    outcome = observe(case)
    if outcome.digest is None:
        return outcome
    clean = clean_digest(outcome.recipe, outcome.steps)
    return dataclasses.replace(outcome, clean_digest=clean)


if __name__ == "__main__":
    sys.exit(main())
