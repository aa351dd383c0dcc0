"""A whole run in its folder: start or resume, train, evaluate, write the results."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from dmeta.addresses import within
from dmeta.options import NamedOptions
from dmeta.runs.layout import JOINT, RESULTS
from dmeta.runs.lock import only_one_in
from dmeta.runs.log import run_log, warnings_logged
from dmeta.runs.metrics import Observer
from dmeta.runtime.protocol import Runtime
from dmeta.training.config import RunConfig
from dmeta.training.devices.parallelism import idle_line, mixed_line
from dmeta.training.evaluation import Evaluation
from dmeta.training.loop import train_steps
from dmeta.training.model_evaluation import final_evaluation, restore, warn_of_left_out
from dmeta.training.nonfatal import guarded, warned_of
from dmeta.training.results import Finished, Result, hardware, summary_of, write_json
from dmeta.training.resume import StartingPoint, starting_point, write_settings
from dmeta.training.session import Session
from dmeta.training.setup import Run

_LOG = logging.getLogger(__name__)

Others: TypeAlias = Mapping[str, Evaluation]

Draw: TypeAlias = Callable[[Run, Path, Evaluation, Run | None, Evaluation | None, Others], None]
"""Draws a run: the run, its folder, its evaluation; the joint baseline and its evaluation; name ->
the run's evaluation on tasks of another source."""


def run_session(
    session: Session,
    joint: Run | None = None,
    joint_observers: Callable[[], Sequence[Observer]] = tuple,
    draw: Draw | None = None,
) -> Result:
    """Train, evaluate on test tasks, and write the results.

    Args:
        session: what to train, and where.
        joint: the jointly pre-trained network to compare with.
        joint_observers: called when the training of `joint` begins, returns the observers of it.
        draw: draws the figures of the finished run; its exceptions are warnings.

    Raises:
        ValueError: another process trains in the run's directory.
        TrainingStopped: too many steps in a row had no finite gradient.
        Stopped: somebody asked for it.
    """
    session = dataclasses.replace(session, observers=guarded(session.observers))
    run, run_dir = session.run, session.run_dir
    finished, baseline = train_and_test(session), None
    if joint is not None:
        session.tell("training the jointly pre-trained network to compare with")
        baseline = train_and_test(_joint_session(session, joint, joint_observers()))
    summary = summary_of(run, finished, baseline)
    write_json(run_dir / RESULTS, summary)
    baseline_test = None if baseline is None else baseline.test
    if draw is not None:
        session.tell("drawing figures")
        with warnings_logged(run_dir, run.config.run_id), warned_of("figures"):
            draw(run, run_dir, finished.test, joint, baseline_test, finished.others)
    return Result(run_dir, finished.test, baseline_test, finished.digest, summary, finished.others)


def _joint_session(session: Session, joint: Run, observers: Sequence[Observer]) -> Session:
    """Of the joint baseline: in a folder of the run's own, and resumed whenever it is there."""
    joint = dataclasses.replace(joint, config=dataclasses.replace(joint.config, resume="auto"))
    return dataclasses.replace(
        session, run=joint, run_dir=session.run_dir / JOINT, observers=guarded(observers)
    )


def train_and_test(session: Session) -> Finished:
    """Train a run to its end in its directory, and evaluate it on test tasks."""
    config = session.run.config
    with only_one_in(session.run_dir):
        start = starting_point(config, session.run_dir, mirror=session.mirror)
        with open_run(session, start) as runtime:
            if session.mirror is not None:
                session.mirror.push()  # the settings: there is a run now
            progress = train_steps(session, start, runtime)
            digest = runtime.digest()
            found = final_evaluation(session.run, start.storage, runtime, progress, session.tell)
            for name, evaluation in found.named.items():
                warn_of_left_out(evaluation, name)
            return Finished(progress, found.test, digest, runtime.info, found.others)


@contextlib.contextmanager
def open_run(session: Session, start: StartingPoint) -> Iterator[Runtime]:
    """Open the run's runtime, at its starting point; its directory must be locked."""
    run, run_dir = session.run, session.run_dir
    start.storage.remove_unfinished()
    for damage in start.damages:
        session.tell(f"left out: {damage}")
    with session.open_runtime(run) as runtime:
        write_settings(run, run_dir)
        begun = {
            "step": start.progress.step,
            "hardware": hardware(),
            "runtime": dataclasses.asdict(runtime.info),
            "plan": None if run.plan is None else dataclasses.asdict(run.plan),
        }
        with run_log(run_dir, run.config.run_id, begun):
            for line in (idle_line(run.config, runtime.info), mixed_line(runtime.info)):
                if line is not None:
                    _LOG.warning(line)
            if start.checkpoint is not None:
                restore(runtime, start.checkpoint)
            yield runtime


def joint_config(config: RunConfig) -> RunConfig:
    """The settings of the jointly pre-trained network that `config` is compared with.

    The same network, tasks, outer optimiser, inner rate and number of tasks; no inner steps in
    training. (The factor of an LSTM's output is no inner rate: then it is the usual one.)
    """
    options = config.algorithm.options
    has_rate = options.get("inner_optimizer") != "lstm"
    kept = ("inner_lr", "eval_inner_steps") if has_rate else ("eval_inner_steps",)
    options = {k: v for k, v in options.items() if k in kept}
    location = config.checkpoint.location
    if location is not None:
        location = within(location, JOINT)
    return dataclasses.replace(
        config,
        joint_baseline=False,
        checkpoint=dataclasses.replace(config.checkpoint, location=location),
        algorithm=NamedOptions("joint", {**options, "inner_steps": 0}),
        gradient=NamedOptions("exact", {}),
    )
