"""What a run exports to Prometheus, through the metrics that every node of a Ray cluster exports.

Prometheus knows them as ``ray_dmeta_<name>`` (a counter as ``ray_dmeta_<name>_total``), labelled
with the run, its algorithm and its task. `cluster/grafana` shows them.

Knows no algorithm, and of a run only what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ray.util.metrics import Counter, Gauge, Histogram

from dmeta.runtime.messages import StepReport, num_tasks_of

MetricKind: TypeAlias = Literal["counter", "sum", "gauge", "seconds", "steps"]
"""``counter``: grows with every step. ``sum``: what was counted so far, as a gauge: it begins at 0,
so that the first of something rare is seen to come; Ray's counters take no 0, and would begin with
that. ``gauge``: the last value. ``seconds`` and ``steps``: histograms of them."""

_SECONDS = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
_STEPS = [0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5]


class Measure(NamedTuple):
    """One of the metrics."""

    kind: MetricKind
    what: str


MEASURES: Mapping[str, Measure] = {
    "step": Measure("gauge", "outer steps done of the run, those before a resume included"),
    "steps": Measure("counter", "outer steps, the rejected ones included"),
    "tasks": Measure("counter", "training tasks"),
    "step_seconds": Measure("seconds", "of an outer step"),
    "block_seconds": Measure("seconds", "of the computation of a block on its worker"),
    "server_seconds": Measure("seconds", "of the parameter server's own work for a step"),
    "server_wait_seconds": Measure("seconds", "that a step waited for the server beyond its work"),
    "staleness": Measure("steps", "that a meta-gradient was behind when it was applied"),
    "bytes_to_server": Measure("counter", "of meta-gradients"),
    "bytes_from_server": Measure("counter", "of meta-parameters; each node reads them once"),
    "workers": Measure("gauge", "workers that answer"),
    "retried_blocks": Measure("sum", "blocks computed again because a worker was lost"),
    "copied_blocks": Measure("sum", "blocks computed twice because a worker was late"),
    "stale_blocks": Measure("sum", "blocks computed again because their gradient came too late"),
    "dropped_blocks": Measure("sum", "blocks computed again because nobody took their gradient"),
    "rejected_steps": Measure("sum", "steps whose meta-gradient was not applied"),
    "train_loss": Measure("gauge", "mean over the training tasks since the line before"),
    "validation": Measure("gauge", "primary metric, mean of the last validation"),
    "validation_ci95": Measure("gauge", "half-width of its 95% confidence interval"),
}
"""All metrics. What a runtime puts into `StepReport.measures` has its name here."""


class Gauges:
    """Keeps the metrics of a run (a `dmeta.runs.metrics.Observer`); Ray must be connected."""

    def __init__(self, run: str, algorithm: str, task: str, metric: str) -> None:
        """Says nothing yet.

        Args:
            run: label, as the next two.
            algorithm: label.
            task: label.
            metric: the primary metric: key of the rows of validations.
        """
        self._metric = metric
        self._labels = {"run": run, "algorithm": algorithm, "task": task}
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._sums: dict[str, float] = {}

    def on_step(self, step: int, report: StepReport) -> None:
        """Note what a step took."""
        self._note({"step": [step], **measures_of(report)})

    def on_row(self, row: Mapping[str, Any]) -> None:
        """Note losses and scores."""
        if row["event"] == "train" and "loss" in row:
            self._note({"train_loss": [row["loss"]]})
        if row["event"] == "val":
            score, ci95 = row[self._metric], row["ci95"]
            self._note({"validation": [score], "validation_ci95": [ci95]})

    def on_phase(self, what: str) -> None:
        """Nothing: no number."""

    def _note(self, measures: Mapping[str, Sequence[float]]) -> None:
        for name, values in measures.items():
            if name not in self._instruments:
                self._instruments[name] = _instrument(name, self._labels)
            instrument = self._instruments[name]
            for value in values:
                if isinstance(instrument, Histogram):
                    instrument.observe(value)
                elif isinstance(instrument, Counter):
                    if value > 0:  # Ray refuses a 0
                        instrument.inc(value)
                elif MEASURES[name].kind == "sum":
                    self._sums[name] = self._sums.get(name, 0) + value
                    instrument.set(self._sums[name])
                else:
                    instrument.set(value)


def measures_of(report: StepReport) -> dict[str, Sequence[float]]:
    """Name in `MEASURES` -> what was observed of it in a step."""
    return {
        "steps": [1],
        "tasks": [num_tasks_of([each.block for each in report.blocks])],
        "step_seconds": [report.seconds],
        "block_seconds": [each.seconds for each in report.blocks],
        "server_seconds": [report.applied.seconds],
        "retried_blocks": [report.num_retries],
        "copied_blocks": [report.num_copies],
        "stale_blocks": [report.num_too_stale],
        "dropped_blocks": [report.num_dropped],
        "rejected_steps": [not report.applied.applied],
        "staleness": report.staleness,
        **report.measures,
    }


def exported_name(name: str) -> str:
    """What Prometheus calls a metric; a histogram's series have ``_bucket`` and so on behind it."""
    return f"ray_dmeta_{name}" + ("_total" if MEASURES[name].kind == "counter" else "")


def _instrument(name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
    kind, what = MEASURES[name]
    name, keys = f"dmeta_{name}", tuple(labels)
    instrument: Counter | Gauge | Histogram
    if kind == "counter":
        instrument = Counter(name, what, keys)
    elif kind in ("sum", "gauge"):
        instrument = Gauge(name, what, keys)
    else:
        instrument = Histogram(name, what, _SECONDS if kind == "seconds" else _STEPS, keys)
    instrument.set_default_tags(labels)
    return instrument
