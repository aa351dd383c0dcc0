"""Prints the results of a run or of an evaluation: a table, and what was written.

Letters: K inner steps at evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dmeta.formatting import digits, duration, next_lines, plus_minus, safe_text, score
from dmeta.metrics.declaration import Declaration
from dmeta.quoting import printable
from dmeta.runs.declared_metrics import declared_metrics
from dmeta.training.evaluation import model_text, non_finite_line, undefined_lines
from dmeta.training.work.scores import MODES, StatisticsMode

_MAX_SHOWN_STEPS = 6
_WIDEST_NAME = 20


def shown_steps(last: int) -> list[int]:
    """The inner steps that a table has room for: 0, 1, 2, 3, 5 ... and the last."""
    before = [k for k in (0, 1, 2, 3, 5, 10) if k < last]
    return [*before[: _MAX_SHOWN_STEPS - 1], last]


def results_table(results: Mapping[str, Any], plus_minus: str = "±") -> Table:
    """The metric after 0..K inner steps, of the model and of the joint baseline if there is one.

    Without any inner steps (K = 0) the rows are the metrics; a single one needs no name.

    Args:
        results: ``metrics``, ``algorithm``, ``test`` (an `Evaluation` as a dict) and
            ``joint_baseline`` (None, or a dict with its own ``test``).
        plus_minus: the sign before an interval.
    """
    (metric, *further), test = declared_metrics(results), results["test"]
    models = [(escape(printable(str(results["algorithm"]))), test)]
    if results.get("joint_baseline"):
        models.append(("joint baseline", results["joint_baseline"]["test"]))
    steps = shown_steps(max(len(e["transductive"]["mean"]) for _, e in models) - 1)
    has_steps, table = steps != [0], Table()
    named = has_steps or bool(further)
    if named:
        title = "inner\nsteps" if has_steps else "metric"
        table.add_column(title, justify="right", max_width=_WIDEST_NAME, overflow="fold")
    cells: list[list[str]] = []
    for name, evaluation in models:
        tasks = f"{evaluation['num_tasks']} {evaluation['split']} tasks"
        for heading, mode in _modes(evaluation):
            table.add_column(f"{name}\n{tasks}\n{heading}", justify="right")
            curve = evaluation[mode]
            scores = zip(curve["mean"], curve["ci95"], strict=True)
            cells.append([_cell(metric, m, c, plus_minus) for m, c in scores])
    for step in steps:
        # Learners may differ in their inner steps: a cell that no learner has is empty.
        label = str(step) if has_steps else escape(_with_unit(metric))
        row = [column[step] if step < len(column) else "" for column in cells]
        table.add_row(*([label] if named else []), *row)
    table.add_section()
    for metric in further:
        found = [
            evaluation["further"][metric.name][mode]
            for _, evaluation in models
            for _, mode in _modes(evaluation)
        ]
        row = [_cell(metric, each["mean"], each["ci95"], plus_minus) for each in found]
        table.add_row(escape(_with_unit(metric)), *row)
    return table


def other_tasks_table(results: Mapping[str, Any], plus_minus: str = "±") -> Table:
    """The metrics after the last inner step on test tasks of other sources (``eval.task``).

    Args:
        results: as for `results_table`, with ``other_tasks`` (name -> ``tasks``, ``test``).
        plus_minus: the sign before an interval.
    """
    metrics, others = declared_metrics(results), results["other_tasks"]
    models = [(escape(printable(str(results["algorithm"]))), others)]
    if results.get("joint_baseline"):
        models.append(("joint baseline", results["joint_baseline"]["other_tasks"]))
    table, columns = Table("other tasks"), []
    if len(metrics) > 1:
        table.add_column("metric", justify="right", max_width=_WIDEST_NAME, overflow="fold")
    for model, found in models:
        for heading, mode in max((_modes(each["test"]) for each in found.values()), key=len):
            table.add_column(f"{model}\n{heading}", justify="right")
            columns.append((found, mode))
    for name, other in others.items():
        title = _other_in_words(name, other)
        for place, metric in enumerate(metrics):
            row = [_last(metric, found[name]["test"], mode, plus_minus) for found, mode in columns]
            if len(metrics) == 1:
                table.add_row(escape("\n".join(title)), *row)
            else:
                line = "".join(title[place : place + 1])
                table.add_row(escape(line), escape(_with_unit(metric)), *row)
        table.add_section()
    return table


def _other_in_words(name: str, other: Mapping[str, Any]) -> tuple[str, str]:
    tasks, test = other["tasks"], other["test"]
    source = "" if tasks["name"] == name else f" ({tasks['name']})"
    sizes = "".join(_sizes_in_words(tasks))
    return f"{name}{source}", f"{test['num_tasks']} {test['split']} tasks: {sizes}"


def _last(
    metric: Declaration, evaluation: Mapping[str, Any], mode: StatisticsMode, plus_minus: str
) -> str:
    """The score of a metric after the last inner step."""
    if metric.name == evaluation["metric"]:
        curve = evaluation[mode]
        return _cell(metric, curve["mean"][-1], curve["ci95"][-1], plus_minus)
    found = evaluation["further"][metric.name][mode]
    return _cell(metric, found["mean"], found["ci95"], plus_minus)


def _cell(metric: Declaration, mean: float, ci95: float, plus_minus: str) -> str:
    """A score without its unit, which is said once."""
    unit = metric.unit if metric.is_fraction else ""
    return score(unit, mean, ci95, 2).replace("±", f" {plus_minus}")


def _with_unit(metric: Declaration) -> str:
    return f"{metric.name} ({metric.shown_unit})" if metric.shown_unit else metric.name


def print_results(
    results: Mapping[str, Any],
    paths: Sequence[Path | str],
    next_command: str,
    console: Console | None = None,
) -> None:
    """Print the table, how long it took, what was written and what to do next.

    Args:
        results: as for `results_table`, with ``training`` (steps, seconds, tasks_per_second,
            rejected_steps, retried_blocks), ``meta_params_sha256`` and ``tasks`` where known.
        paths: what was written.
        next_command: the command to try next.
        console: where to; standard output if None.
    """
    console = Console() if console is None else console
    test, sign, metric = results["test"], plus_minus(console), declared_metrics(results)[0]
    joint = (results.get("joint_baseline") or {}).get("test")
    has_steps = any(len(e["transductive"]["mean"]) > 1 for e in (test, joint) if e)
    after = " after 0, 1, ... inner steps" if has_steps else ""
    heading = (
        f"{_with_unit(metric)}{after}: mean {sign} 95% confidence interval, "
        f"{model_text(test['model'], test['num_models'])}, {test['step']} outer steps"
    )
    if "further" in test and has_steps:
        heading += "; other metrics after the last inner step"
    console.print(safe_text(heading, console), soft_wrap=True)
    console.print(results_table(results, sign))
    if others := results.get("other_tasks"):
        console.print(other_tasks_table(results, sign))
    warnings = {"": test, "joint baseline: ": joint}
    warnings |= {f"{name}: ": each["test"] for name, each in (others or {}).items()}
    lines = [
        f"warning   {whose}{line}"
        for whose, evaluation in warnings.items()
        if evaluation and (line := non_finite_line(evaluation, metric))
    ]
    lines += [
        f"note      {whose}{line}"
        for whose, evaluation in warnings.items()
        for line in (undefined_lines(evaluation) if evaluation else ())
    ]
    if training := results.get("training"):
        parts = [
            f"{training['steps']} outer steps in {duration(training['seconds'])}",
            f"{digits(training['tasks_per_second'], 3)} tasks/s",
            *fault_parts(training.get("rejected_steps", 0), training.get("retried_blocks", 0)),
        ]
        lines.append(f"training  {', '.join(parts)}")
    if tasks := results.get("tasks"):
        lines.append(f"tasks     {_tasks_in_words(tasks)}")
    if sha256 := results.get("meta_params_sha256"):
        lines.append(f"sha256    {sha256} (meta-parameters of the last step)")
    lines += [f"{'wrote' if i == 0 else '':<10}{path}" for i, path in enumerate(paths)]
    lines += next_lines(next_command)
    for line in lines:
        console.print(safe_text(line, console), soft_wrap=True)


def _tasks_in_words(tasks: Mapping[str, Any]) -> str:
    queries = _counted(tasks["queries"], "query", "queries")
    sizes, sampler = _sizes_in_words(tasks)
    return f"{tasks['name']}: {sizes}, {queries} per class{sampler}"


def _sizes_in_words(tasks: Mapping[str, Any]) -> tuple[str, str]:
    """Ways and shots, and what draws them if they vary."""
    sizes = f"{_counted(tasks['ways'], 'way', 'ways')}, {_counted(tasks['shots'], 'shot', 'shots')}"
    sampler = tasks.get("sampler", "fixed")  # of results of earlier versions: none
    return (sizes, "") if sampler == "fixed" else (f"at most {sizes}", f" (sampler {sampler})")


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _modes(evaluation: Mapping[str, Any]) -> list[tuple[str, StatisticsMode]]:
    """Heading and key: transductive and non-transductive, or one if they are the same numbers."""
    others = [[each[mode]["mean"] for mode in MODES] for each in _further(evaluation)]
    means = [[list(evaluation[mode]["mean"]) for mode in MODES], *others]
    if all(together == apart for together, apart in means):
        return [("transductive\nor not: same", MODES[0])]
    return [("transductive", MODES[0]), ("non-\ntransductive", MODES[1])]


def _further(evaluation: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = evaluation.get("further", {})
    return found.values()


def fault_parts(rejected: int, retried: int) -> list[str]:
    """Counts of steps and blocks with a fault, those that are not 0."""
    counts = {"rejected steps": rejected, "retried blocks": retried}
    return [f"{what} {count}" for what, count in counts.items() if count]
