"""`dmeta submit`: check a verb here, run it as a job of a Ray cluster, and follow it."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmeta.addresses import is_address, local_path, redacted
from dmeta.cli.errors import format_error
from dmeta.cli.help import commented_yaml
from dmeta.cli.jobs.submission import Submission, SubmitOptions
from dmeta.cli.jobs.upload import shipment_of
from dmeta.cli.settings.early_checks import check_early
from dmeta.cli.settings.hydra_app import compose, composed_jobs
from dmeta.cli.settings.presets import CONFIG_DIR_FLAGS
from dmeta.cli.settings.schema import settings_of
from dmeta.cli.settings.sweeps import without_space
from dmeta.options import checked
from dmeta.quoting import override_word, shell_word
from dmeta.registry import nearest
from dmeta.training.byte_size import shown_bytes

if TYPE_CHECKING:
    from dmeta.runtime.cluster.jobs import Ending, Jobs

SUBMIT_VERBS = ("train", "tune", "evaluate")

SUBMIT_USAGE = """usage: dmeta submit VERB [key=value ...] [submit.key=value ...] [--dry-run]
       dmeta submit attach JOB
       dmeta submit stop JOB

VERB is train, tune or evaluate. Its settings are checked here, then it runs on a Ray cluster.
--dry-run prints the `ray job submit` that would do the same, and what would be uploaded.

"""

_ANSWERED = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info")
_ANSWERED_BESIDE = ("-p", "--package", "--resolve")
_DRY_RUN = "--dry-run"
_WRONG_INPUT, _NOT_FOUND = 2, 127


def _options_text() -> str:
    options = settings_of("submit", ()).keys.values()
    return "\n".join(["Settings of its own:", *commented_yaml(options)]) + "\n"


def submit_command(arguments: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(SUBMIT_USAGE + _options_text())
        return 0 if arguments else 2
    what, rest = arguments[0], list(arguments[1:])
    if what in ("attach", "stop"):
        return _steer(what, rest)
    if what not in SUBMIT_VERBS:
        known = [*SUBMIT_VERBS, "attach", "stop"]
        raise ValueError(
            f"dmeta submit takes {', '.join(SUBMIT_VERBS)}, attach or stop, got '{what}'"
            f"{nearest(what, known)}; name one"
        )
    dry = _DRY_RUN in rest
    own, rest = _apart(_flags_first([word for word in rest if word != _DRY_RUN]))
    options = _options(own)
    settings = _composed(what, rest)
    if settings is None:  # Hydra has answered: --help, --cfg
        return 0
    _check_places(settings)
    submission = Submission(
        what,
        options,
        shipment_of(rest, code=options.code),
        settings["runtime"]["allow_unauthenticated"],
    )
    submission.check()
    if dry:
        _print_equivalent(submission)
        return 0
    return _submit(submission)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of the submission, and the verb's own arguments."""
    own = [word for word in arguments if word.lstrip("+~").startswith(("submit.", "submit="))]
    return own, [word for word in arguments if word not in own]


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """In an order that argparse takes: it knows no two groups of overrides with a flag between."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, word in itertools.pairwise(("", *arguments)):
        is_value = before in CONFIG_DIR_FLAGS or (before[:1] == "-" and "=" not in before + word)
        (flags if word[:1] == "-" or is_value else overrides).append(word)
    return [*flags, *overrides]


def _options(overrides: Sequence[str]) -> SubmitOptions:
    with _in_words("submit", overrides):
        return checked(SubmitOptions, compose("submit", overrides)["submit"], "submit")


def _composed(verb: str, arguments: list[str]) -> dict[str, Any] | None:
    """The settings of the verb, composed and checked as it would do; None: Hydra answered."""
    flags = [word.partition("=")[0] for word in arguments if word.startswith("-")]
    known = (*CONFIG_DIR_FLAGS, *_ANSWERED, *_ANSWERED_BESIDE)
    for flag in flags:
        if flag not in known:
            raise ValueError(
                f"dmeta submit takes key=value, --config-dir and {_DRY_RUN}, got {flag}; leave it "
                "out (a sweep: submit each of its runs)"
            )
    if path := [word for word in arguments if word.lstrip("+").startswith("hydra.searchpath=")]:
        raise ValueError(
            f"settings of your own must be named by --config-dir, which is shipped, got {path[0]}; "
            "change it"
        )
    with _in_words(verb, arguments):
        words, more = without_space(arguments) if verb == "tune" else (arguments, ())
        jobs = composed_jobs(verb, words)
        for job in jobs:
            check_early(verb, job.settings, *more)
            import_module(f"dmeta.cli.{verb}").check_command(job.settings, job.overrides, *more)
    return jobs[0].settings if jobs else None


@contextmanager
def _in_words(verb: str, overrides: Sequence[str]) -> Iterator[None]:
    """What Hydra says of a verb's command line, as the verb itself would tell it."""
    try:
        yield
    except Exception as error:
        message, code = format_error(error, verb, overrides)
        if code != _WRONG_INPUT:
            raise
        raise ValueError(message) from error


def _check_places(settings: Mapping[str, Any]) -> None:
    """Refuses what would be lost with the job's own folder, and another cluster than the job's."""
    kept = settings.get("checkpoint")  # a group, but of `evaluate`
    location = kept["location"] if isinstance(kept, Mapping) else None
    for key, place in (("run_dir", settings["run_dir"]), ("checkpoint.location", location)):
        if place is None and key != "run_dir":
            continue
        # Not a home: that of the job is another.
        if not (_is_from_the_root(str(place)) or is_address(str(place))):
            raise ValueError(
                f"{key} must be an absolute path (or an address) that every node of the cluster "
                f"sees, for a job's own folder goes with it, got {place or 'nothing'}; give one "
                f"such as {key}=/mnt/shared/runs/my-run"
            )
    address = settings["runtime"]["address"]
    if address not in (None, "auto"):
        raise ValueError(
            "runtime.address must be auto or null in a job, which joins the cluster that it runs "
            f"in, got {address}; leave it out (submit.address says where the job goes)"
        )


def _is_from_the_root(place: str) -> bool:
    return not is_address(place) and "~" not in place and local_path(place).is_absolute()


def _print_equivalent(submission: Submission) -> None:
    """What would do the same, and what would be uploaded."""
    from dmeta.runtime.cluster.dashboard import named_address

    files = submission.shipment.files
    env = submission.runtime_env(None)
    words = ["ray", "job", "submit", "--address", named_address(submission.options.address)]
    words += ["--working-dir", "FOLDER"] if files else []
    words += ["--runtime-env-json", json.dumps(env)]
    words += [] if submission.options.wait else ["--no-wait"]
    said = f"{shlex.join(words)} -- {submission.entrypoint()}"
    print(redacted(said))
    if redacted(said) != said:
        print("passwords and keys in addresses are shown as ***")
    if not files:
        print("nothing is uploaded")
        return
    print(f"uploaded is FOLDER, {shown_bytes(submission.shipment.size_bytes)}:")
    for line in submission.shipment.in_words():
        print(f"  {line}")


def _submit(submission: Submission) -> int:
    """Submit the job, again if it fails and retries are left; returns the exit code."""
    options = submission.options
    jobs = _jobs(options, allow_unauthenticated=submission.allow_unauthenticated)
    for attempt in range(options.retries + 1):
        job = _hand_in(jobs, submission, again=attempt > 0)
        _say(f"job {job} at {redacted(jobs.url)}; {_how_to('attach', job, options)}")
        if not options.wait:
            return 0
        ending = _followed(jobs, job, options)
        retried = ending.what == "failed" and ending.exit_code != _WRONG_INPUT
        if not retried or attempt == options.retries:
            break
        _say(f"going on from the last checkpoint, attempt {attempt + 2} of {options.retries + 1}")
    return ending.exit_code


def _jobs(options: SubmitOptions, *, allow_unauthenticated: bool) -> Jobs:
    # Ray's client takes a second to import, and wrong input is reported without it.
    from dmeta.runtime.cluster.jobs import Jobs

    return Jobs(options.address, allow_unauthenticated=allow_unauthenticated)


def _hand_in(jobs: Jobs, submission: Submission, *, again: bool) -> str:
    entrypoint = submission.entrypoint(again=again)
    if not submission.shipment.files:
        return jobs.submit(entrypoint, submission.runtime_env(None))
    with submission.shipment.staged() as folder:
        size = shown_bytes(submission.shipment.size_bytes)
        _say(f"uploading {size}: {', '.join(submission.shipment.in_words())}")
        return jobs.submit(entrypoint, submission.runtime_env(str(folder)))


def _steer(what: str, arguments: list[str]) -> int:
    """`dmeta submit attach JOB`, `dmeta submit stop JOB`."""
    own, rest = _apart(arguments)
    ids = [word for word in rest if "=" not in word and not word.startswith("-")]
    others = [word for word in rest if word not in ids]
    allowed = "runtime.allow_unauthenticated="
    if len(ids) != 1 or not all(word.startswith(allowed) for word in others):
        raise ValueError(
            f"dmeta submit {what} takes one JOB and submit.address=..., got "
            f"{' '.join(rest) or 'nothing'}; give the job's id (`ray job list` has them)"
        )
    options = _options(own)
    with _in_words("train", others):
        runtime = compose("train", others)["runtime"]
    jobs = _jobs(options, allow_unauthenticated=runtime["allow_unauthenticated"])
    if what == "attach":
        return _followed(jobs, ids[0], options).exit_code
    if not jobs.stop(ids[0]):
        _say(f"job {ids[0]} had already ended")
        return 0
    _say(f"job {ids[0]} was asked to stop: it saves its current step")
    return _followed(jobs, ids[0], options).exit_code


def _followed(jobs: Jobs, job: str, options: SubmitOptions) -> Ending:
    """Show what the job prints until it ends, and say how; an interrupt leaves it running."""
    try:
        ending = jobs.follow(job, _show)
    except KeyboardInterrupt as stop:
        stop.add_note(f"the job continues; {_how_to('attach', job, options)}")
        stop.add_note(_how_to("stop", job, options))
        if options.retries:
            stop.add_note("it is not submitted again if it fails now")
        raise
    words = {"succeeded": "succeeded", "stopped": "was stopped", "failed": "failed"}[ending.what]
    _say(f"job {job} {words}, exit code {ending.exit_code}")
    if ending.reason:
        _say(ending.reason)
    if ending.exit_code == _NOT_FOUND:
        _say("the cluster has no dmeta: add submit.code=true, or an image that has it")
    return ending


def _how_to(what: str, job: str, options: SubmitOptions) -> str:
    where = [] if options.address is None else [override_word("submit.address", options.address)]
    words = {"attach": "follow it with", "stop": "stop it with"}
    return f"{words[what]}: {' '.join(['dmeta submit', what, shell_word(job), *where])}"


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    print(line, flush=True)
