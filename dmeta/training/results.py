"""`results.json`: the numbers of a finished run, each with what it is of.

Keys: ``format``; ``algorithm``, ``gradient``, ``task``, ``model`` (names); ``kind``; ``metric``
(the primary one); ``metrics`` (what each of them is: `dmeta.metrics.declaration.Declaration`);
``num_parameters``; ``peak_memory`` (of a block, predicted and measured, where
``gradient.memory_budget`` is set, or null); ``plan`` (the execution plan, its chunk size, the
seconds of a block of the plans that it was chosen from, and why others were left out; or null);
``meta_params_sha256`` (of the last step's meta-parameters); ``test`` (an `Evaluation`: split,
num_tasks, step, curves over inner steps, transductive and not, with 95% confidence intervals and
the number of tasks whose predictions were not finite; ``further``: other metrics after the last
inner step; ``num_undefined``: metric -> tasks that it is not defined for, if there are any;
``num_non_finite``: tasks whose predictions were not finite after the last inner step);
``other_tasks`` (name in ``eval.task`` -> ``tasks``: the source, its options and the size of a task;
``test``: as above, on its test tasks);
``joint_baseline`` (the same of the jointly pre-trained network, or null); ``training`` (steps,
tasks, seconds, tasks_per_second, rejected_steps, retried_blocks, copied_blocks,
stale_blocks, dropped_blocks, best validation step);
``runtime`` (who computed: workers by kind of device, and what they warned of: operations whose bits
may differ from one time to the next); ``settings`` (all of them); ``versions``; ``hardware``;
``finished`` (UTC).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from dmeta.capacity import cpu_model, memory_bytes, usable_cpus
from dmeta.metrics import declaration
from dmeta.runs.declared_metrics import DECLARED
from dmeta.runs.files import replace_file
from dmeta.runs.progress import Progress
from dmeta.runtime.messages import RuntimeInfo
from dmeta.training.evaluation import Evaluation, as_plain
from dmeta.training.setup import Run
from dmeta.training.task_options import described

RESULTS_FORMAT = 1

_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Result:
    """What `dmeta.train` returns.

    Attributes:
        run_dir: the run's folder, or its address.
        test: evaluation on test tasks.
        joint_baseline: the same of the jointly pre-trained network, if asked for.
        meta_params_sha256: of the last step's meta-parameters.
        summary: the content of results.json.
        other_tests: name in ``eval.task`` -> evaluation on test tasks of that source.
    """

    run_dir: Path | str
    test: Evaluation
    joint_baseline: Evaluation | None
    meta_params_sha256: str
    summary: dict[str, Any] = field(repr=False)
    other_tests: Mapping[str, Evaluation] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A run that was trained and evaluated.

    Attributes:
        progress: of the last step.
        test: evaluation on test tasks.
        digest: SHA-256 of the last step's meta-parameters.
        info: who computed.
        others: name in ``eval.task`` -> evaluation on test tasks of that source.
    """

    progress: Progress
    test: Evaluation
    digest: str
    info: RuntimeInfo
    others: Mapping[str, Evaluation] = field(default_factory=dict)


def summary_of(run: Run, finished: Finished, joint: Finished | None) -> dict[str, Any]:
    """The content of results.json as plain data."""
    progress, test = finished.progress, finished.test
    baseline = None
    if joint is not None:
        baseline = {
            "test": as_plain(joint.test),
            "other_tasks": {name: {"test": as_plain(e)} for name, e in joint.others.items()},
            "meta_params_sha256": joint.digest,
        }
    config = run.config
    num_tasks = progress.step * config.meta_batch_size
    return {
        "format": RESULTS_FORMAT,
        "algorithm": config.algorithm.name,
        "gradient": config.gradient.name,
        "task": config.task.source.name,
        "model": config.model.name,
        "kind": run.source.kind,
        "metric": test.metric,
        DECLARED: [declaration.as_plain(each) for each in test.declarations],
        "num_parameters": run.work.layout.size,
        "peak_memory": None if run.memory is None else dataclasses.asdict(run.memory),
        "plan": None if run.plan is None else dataclasses.asdict(run.plan),
        "meta_params_sha256": finished.digest,
        "test": as_plain(test),
        "other_tasks": {
            name: {"tasks": described(run.other_tasks[name]), "test": as_plain(evaluation)}
            for name, evaluation in finished.others.items()
        },
        "joint_baseline": baseline,
        "training": {
            "steps": progress.step,
            "tasks": num_tasks,
            "seconds": progress.seconds,
            "tasks_per_second": num_tasks / max(progress.seconds, 1e-9),
            "rejected_steps": progress.rejected,
            "retried_blocks": progress.retried_blocks,
            "copied_blocks": progress.copied_blocks,
            "stale_blocks": progress.stale_blocks,
            "dropped_blocks": progress.dropped_blocks,
            "best_step": progress.best_step,
            "best_val": progress.best[0][1] if progress.best else None,
        },
        "runtime": dataclasses.asdict(finished.info),
        "settings": config.as_mapping(),
        "versions": versions(),
        "hardware": hardware(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("dmeta", "torch", "ray", "numpy", "hydra-core")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """The machine that the driver runs on; CPUs and memory are those that it may use.

    Its GPUs as their driver names them: to ask torch would take memory of the first.
    """
    gpus = [_value(path, "Model:") for path in sorted(_GPUS.glob("*/information"))]
    return {
        "cpu": cpu_model(),
        "cpu_count": usable_cpus(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def _value(path: Path, key: str) -> str:
    """What follows a key on a line of a file under /proc."""
    lines = path.read_text().splitlines()
    return next((x.removeprefix(key).strip() for x in lines if x.startswith(key)), "GPU")


def write_json(path: Path, content: Any) -> None:
    """Write JSON aside, then rename: the file is whole or absent."""
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())
