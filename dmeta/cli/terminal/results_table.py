"""Prints the results of a run or of an evaluation: a table, and what was written.

Letters: K inner steps at evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dmeta.formatting import digits, duration, next_lines, plus_minus, safe_text, score
from dmeta.quoting import printable
from dmeta.training.evaluation import model_text, non_finite_line

_MAX_SHOWN_STEPS = 6


def shown_steps(last: int) -> list[int]:
    """The inner steps that a table has room for: 0, 1, 2, 3, 5 ... and the last."""
    before = [k for k in (0, 1, 2, 3, 5, 10) if k < last]
    return [*before[: _MAX_SHOWN_STEPS - 1], last]


def results_table(results: Mapping[str, Any], plus_minus: str = "±") -> Table:
    """The metric after 0..K inner steps, of the model and of the joint baseline if there is one.

    Args:
        results: ``metric``, ``algorithm``, ``test`` (an `Evaluation` as a dict) and
            ``joint_baseline`` (None, or a dict with its own ``test``).
        plus_minus: the sign before an interval.
    """
    metric, test = results["metric"], results["test"]
    models = [(escape(printable(str(results["algorithm"]))), test)]
    if results.get("joint_baseline"):
        models.append(("joint baseline", results["joint_baseline"]["test"]))
    steps = shown_steps(max(len(e["transductive"]["mean"]) for _, e in models) - 1)
    table = Table()
    table.add_column("inner\nsteps", justify="right")
    cells: list[list[str]] = []
    for name, evaluation in models:
        tasks = f"{evaluation['num_tasks']} {evaluation['split']} tasks"
        for mode, curve in _modes(evaluation):
            table.add_column(f"{name}\n{tasks}\n{mode}", justify="right")
            scores = zip(curve["mean"], curve["ci95"], strict=True)
            cells.append([score(metric, m, c, 2).replace("±", f" {plus_minus}") for m, c in scores])
    for step in steps:
        # Learners may differ in their inner steps: a cell that no learner has is empty.
        table.add_row(str(step), *(column[step] if step < len(column) else "" for column in cells))
    return table


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
    test, sign = results["test"], plus_minus(console)
    heading = (
        f"{results['metric']} after 0, 1, ... inner steps: mean {sign} 95% confidence interval, "
        f"{model_text(test['model'], test['num_models'])}, {test['step']} outer steps"
    )
    console.print(safe_text(heading, console), soft_wrap=True)
    console.print(results_table(results, sign))
    joint = (results.get("joint_baseline") or {}).get("test")
    warnings = {"": test, "joint baseline: ": joint}
    lines = [
        f"warning   {whose}{line}"
        for whose, evaluation in warnings.items()
        if evaluation and (line := non_finite_line(evaluation))
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
    sizes = ", ".join(f"{tasks[key]} {key}" for key in ("ways", "shots", "queries"))
    return f"{tasks['name']}: {sizes} per class"


def _modes(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Transductive and non-transductive, or one column if they are the same numbers."""
    together, apart = evaluation["transductive"], evaluation["non_transductive"]
    if list(together["mean"]) == list(apart["mean"]):
        return [("transductive\nor not: same", together)]
    return [("transductive", together), ("non-\ntransductive", apart)]


def fault_parts(rejected: int, retried: int) -> list[str]:
    """Counts of steps and blocks with a fault, those that are not 0."""
    counts = {"rejected steps": rejected, "retried blocks": retried}
    return [f"{what} {count}" for what, count in counts.items() if count]
