"""Accuracy of every method after the same seconds of training on the same task source.

How many outer steps fit into the seconds is measured first; a method's run then has that many. So
the clock decides how many steps are taken, never what a step computes, and the run can be
repeated. Knows no command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from dmeta.algorithms import ALGORITHMS
from dmeta.bench.profile import ProfileOptions, profile
from dmeta.metrics.declaration import Declaration, as_plain
from dmeta.options import check_fields
from dmeta.registry import check_names
from dmeta.runs.declared_metrics import DECLARED, declared_metrics
from dmeta.runs.files import replace_file
from dmeta.runs.json_lines import read_rows
from dmeta.runs.layout import METRICS, RESULTS
from dmeta.runtime.protocol import Runtime
from dmeta.training.setup import Run

_MOST_TIMED = 100
"""Outer steps that are timed at most, to find how long one takes."""


@dataclass(frozen=True)
class AccuracyOptions:
    """What is measured.

    Attributes:
        methods: methods to compare, such as ``[maml,protonet]``; None: all that can learn the task.
        seconds: of training, for each method. Validations and the final evaluation are not counted.
        points: validations on the way, which make the curve.
        timed_seconds: for how long outer steps are timed, to find how many fit into the seconds.
        out: folder for the runs, the table (JSON) and the plot; None: a new one under ./runs.
            What is there is used: methods in its table are not trained again, and interrupted runs
            are continued with the steps that were timed for them.
    """

    methods: tuple[str, ...] | None = None
    seconds: PositiveFloat = 60.0
    points: PositiveInt = 8
    timed_seconds: PositiveFloat = 5.0
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers and unknown names."""
        if self.methods == ():
            raise ValueError("bench.methods must have an entry, got none; add one, or set null")
        check_fields(self, "bench")
        check_names(ALGORITHMS, self.methods or (), "bench.methods")


@dataclass(frozen=True)
class AccuracyRow:
    """Of one method.

    Attributes:
        method: its name.
        metric: the primary one.
        seconds: of training that were allowed.
        steps: outer steps that fit into them.
        tasks_per_step: tasks, or mini-batches, of an outer step.
        num_params: meta-parameters (a count).
        curve: of each validation: seconds of training, mean and 95% confidence interval.
        num_val_tasks: of each validation.
        num_test_tasks: of the final evaluation.
        transductive: mean and 95% confidence interval after the last inner step.
        non_transductive: the same, if queries do not share statistics.
        overrides: with which ``dmeta train`` repeats the run.
        meta_params_sha256: of the last step's meta-parameters.
        versions: of what computed.
        hardware: that computed.
        declared: what the metric is, as plain data; empty in tables of earlier versions.
    """

    method: str
    metric: str
    seconds: float
    steps: int
    tasks_per_step: int
    num_params: int
    curve: tuple[tuple[float, float, float], ...]
    num_val_tasks: int
    num_test_tasks: int
    transductive: tuple[float, float]
    non_transductive: tuple[float, float]
    overrides: tuple[str, ...]
    meta_params_sha256: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def declaration(self) -> Declaration:
        """What the metric is."""
        known = {DECLARED: [self.declared]} if self.declared else {"metric": self.metric}
        return declared_metrics(known)[0]


def seconds_of_step(
    run: Run, open_runtime: Callable[[Run], Runtime], options: AccuracyOptions
) -> float:
    """Seconds of an outer step of a run, without validations and checkpoints.

    Args:
        run: the run, its plan chosen.
        open_runtime: starts its runtime.
        options: for how long steps are timed.
    """
    first = profile(run, open_runtime, ProfileOptions(steps=2, warmup=1)).seconds
    steps = min(_MOST_TIMED, int(options.timed_seconds / first))
    if steps <= 2:
        return first
    return profile(run, open_runtime, ProfileOptions(steps=steps, warmup=2)).seconds


def steps_within(seconds: float, seconds_of_one: float) -> int:
    """Outer steps that fit into `seconds`; at least 1."""
    return max(1, int(seconds / seconds_of_one))


def validated_every(steps: int, points: int) -> int:
    """Outer steps from one validation to the next."""
    return math.ceil(steps / points)


def finished_row(run_dir: Path, seconds: float, overrides: Sequence[str]) -> AccuracyRow:
    """What a finished run found.

    Args:
        run_dir: its folder.
        seconds: of training that were allowed.
        overrides: of its settings.
    """
    results = json.loads((run_dir / RESULTS).read_text())
    test, steps, metric = results["test"], results["training"]["steps"], results["metric"]
    val = [row for row in read_rows(run_dir / METRICS).rows if row["event"] == "val"]
    scores: dict[str, tuple[float, float]] = {
        name: (test[name]["mean"][-1], test[name]["ci95"][-1])
        for name in ("transductive", "non_transductive")
    }
    return AccuracyRow(
        method=results["algorithm"],
        metric=metric,
        seconds=seconds,
        steps=steps,
        tasks_per_step=results["settings"]["meta_batch_size"],
        num_params=results["num_parameters"],
        curve=tuple((row["step"] * seconds / steps, row[metric], row["ci95"]) for row in val),
        num_val_tasks=results["settings"]["eval"]["val_tasks"],
        num_test_tasks=test["num_tasks"],
        overrides=tuple(overrides),
        meta_params_sha256=results["meta_params_sha256"],
        versions=results["versions"],
        hardware=results["hardware"],
        declared=as_plain(declared_metrics(results)[0]),
        **scores,
    )


def best_first(rows: Sequence[AccuracyRow]) -> list[AccuracyRow]:
    """By their transductive score; one that is not finite comes last."""
    sign = -1.0 if rows and rows[0].declaration.higher_is_better else 1.0

    def key(row: AccuracyRow) -> tuple[bool, float]:
        score = row.transductive[0]
        return not math.isfinite(score), sign * score

    return sorted(rows, key=key)


def read_table(path: Path, title: str) -> dict[str, AccuracyRow]:
    """Method -> its row of a table that was written before; none if there is no file.

    Raises:
        ValueError: it is of something else than `title` says.
    """
    if not path.exists():
        return {}
    table = json.loads(path.read_text())
    if table["title"] != title:
        raise ValueError(
            f"bench.out must be a folder of the same comparison ({title!r}), got {path.parent} "
            f"with {table['title']!r}; choose another folder"
        )
    rows = table["rows"]
    return {row["method"]: AccuracyRow(**{k: _frozen(v) for k, v in row.items()}) for row in rows}


def write_table(rows: Iterable[AccuracyRow], title: str, path: Path) -> None:
    """Write the table: complete, or as it was before."""
    content = {"title": title, "rows": [dataclasses.asdict(row) for row in rows]}
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
