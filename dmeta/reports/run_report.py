"""The figures of a finished run, drawn from its folder and its evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from dmeta.inference import learner_of
from dmeta.reports.function_figure import FunctionPanel, adapted_functions, function_panels
from dmeta.reports.run_figures import inner_step_curve, learning_curve
from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint
from dmeta.runs.layout import FIGURES, JOINT
from dmeta.runs.metrics import read_metrics
from dmeta.training.evaluation import Evaluation
from dmeta.training.nonfatal import warned_of
from dmeta.training.setup import Run


def draw_run(
    run: Run,
    run_dir: Path,
    test: Evaluation,
    joint: Run | None,
    baseline: Evaluation | None,
    others: Mapping[str, Evaluation],
) -> None:
    """Draw the run's figures under ``figures/``; those with nothing to show are left out.

    A figure that cannot be drawn is a warning.

    Args:
        run: what was trained.
        run_dir: its folder.
        test: its evaluation on test tasks.
        joint: the jointly pre-trained network that it is compared with, if there is one.
        baseline: the evaluation of that.
        others: name -> the run's evaluation on tasks of another source.
    """
    folder = run_dir / FIGURES
    folder.mkdir(exist_ok=True)
    name, source = run.config.algorithm.name, run.source
    rows = read_metrics(run_dir)
    if any(row.get(test.metric) is not None for row in rows):
        with _figure(folder, "learning_curve.png") as path:
            learning_curve(rows, path, test.declared)
    runs = {name: (run, run_dir, test)}
    if joint is not None and baseline is not None:
        runs["joint pre-training"] = (joint, run_dir / JOINT, baseline)
    evaluations = {title: evaluation for title, (_, _, evaluation) in runs.items()}
    evaluations |= {f"{name} on {other}": evaluation for other, evaluation in others.items()}
    with _figure(folder, "inner_steps.png") as path:
        inner_step_curve(evaluations, path)
    has_steps = len(test.transductive.mean) > 1
    is_function = source.kind == "regression" and source.input_shape == (1,)
    if is_function and source.num_outputs(1) == 1 and has_steps:
        with _figure(folder, "adapted_functions.png") as path:
            panels = {title: _function_panels(*each) for title, each in runs.items()}
            adapted_functions(panels, path)


@contextlib.contextmanager
def _figure(folder: Path, name: str) -> Iterator[Path]:
    """Where a figure is drawn; a failure inside is a warning."""
    with warned_of(f"{folder.name}/{name}"):
        yield folder / name


def _function_panels(run: Run, run_dir: Path, test: Evaluation) -> list[FunctionPanel]:
    config = run.config
    storage = open_checkpoints(run_dir, config.checkpoint.location)
    learner = learner_of(run, read_checkpoint(storage, test.step))
    return function_panels(
        learner.algorithm,
        learner.meta_params,
        run.source,
        config.task.evaluation,
        config.eval.seed,
    )
