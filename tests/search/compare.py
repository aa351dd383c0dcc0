"""Searches beside each other: ``python -m tests.search.compare FOLDER NAME PICTURE.png``.

Reads FOLDER/NAME_asha_SEED, NAME_random_SEED (searches) and NAME_published_SEED (runs), prints the
table of docs/searches.md and draws the best validation score against the tasks computed.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from dmeta.reports.drawing import BLUE, GREY, ORANGE, frame, new_figure, plain_ticks, save
from dmeta.runs.metrics import read_metrics
from dmeta.search.scheduling import reports_in

Line = list[tuple[int, float]]
_STYLES = {"asha": (BLUE, "-"), "random": (ORANGE, "--"), "published": (GREY, ":")}


def search_line(run_dir: Path, sign: int) -> Line:
    """(tasks of all trials, best score) after each report."""
    seen: set[tuple[str, int]] = set()
    done: dict[str, int] = {}
    total, best, line = 0, None, []
    reports = sorted(
        reports_in(str(run_dir / "tune")), key=lambda each: float(each[1]["timestamp"])
    )
    for trial, report in reports:
        if (trial, report["step"]) in seen:
            continue
        seen.add((trial, report["step"]))
        total += report["tasks"] - done.get(trial, 0)
        done[trial] = report["tasks"]
        if best is None or sign * report["score"] > sign * best:
            best = float(report["score"])
        line.append((total, best))
    return line


def run_line(run_dir: Path) -> Line:
    """(tasks, best score) after each of a run's validations."""
    settings = json.loads((run_dir / "config.json").read_text())["settings"]
    rows = [row for row in read_metrics(run_dir) if row["event"] == "val"]
    metric = "accuracy" if "accuracy" in rows[0] else "mse"
    pick = max if metric == "accuracy" else min
    return [
        (row["step"] * settings["meta_batch_size"], pick(each[metric] for each in rows[: at + 1]))
        for at, row in enumerate(rows)
    ]


def tested_score(run_dir: Path) -> str:
    """With its confidence interval, as it was evaluated once."""
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    test = results["test"]
    curve = test.get("evaluation", test)["transductive"]
    return f"{curve['mean'][-1]:.4f} ± {curve['ci95'][-1]:.4f}"


def lines_in(folder: Path, name: str) -> tuple[dict[tuple[str, str], Line], bool]:
    """(kind, folder's name) -> line, of what is finished; and whether scores are accuracies."""
    lines: dict[tuple[str, str], Line] = {}
    accuracy = True
    for kind in _STYLES:
        for run_dir in sorted(folder.glob(f"{name}_{kind}_[0-9]")):
            if not (run_dir / "results.json").exists():
                continue
            accuracy = json.loads((run_dir / "results.json").read_text())["metric"] == "accuracy"
            is_run = kind == "published"
            line = run_line(run_dir) if is_run else search_line(run_dir, 1 if accuracy else -1)
            lines[kind, run_dir.name] = line
    return lines, accuracy


def print_table(folder: Path, lines: dict[tuple[str, str], Line]) -> None:
    """Also at the budget that both searches of a seed have used."""
    print("| | seed | tasks computed | best validation score | at the common budget | test |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (kind, directory), line in lines.items():
        seed = directory[-1]
        budget = min(
            other[-1][0] for (k, n), other in lines.items() if n[-1] == seed and k != "published"
        )
        common = [score for tasks, score in line if tasks <= budget and kind != "published"]
        at = f"{common[-1]:.4f}" if common else ""
        print(
            f"| {kind} | {seed} | {line[-1][0]:,} | {line[-1][1]:.4f} | {at} | "
            f"{tested_score(folder / directory)} |"
        )


def draw(lines: dict[tuple[str, str], Line], accuracy: bool, picture: Path) -> None:
    """The best score against the tasks computed."""
    figure = new_figure(4.4)
    axes = figure.subplots()
    frame(axes)
    for (kind, directory), line in lines.items():
        colour, dashes = _STYLES[kind]
        label = kind if directory.endswith("_0") else None
        xs, ys = [x for x, _ in line], [y for _, y in line]
        axes.step(xs, ys, dashes, where="post", color=colour, label=label)
    axes.set_xlabel("training tasks computed")
    axes.set_ylabel(f"best validation {'accuracy' if accuracy else 'MSE'} so far")
    if not accuracy:
        axes.set_yscale("log")
        shown = [score for line in lines.values() for _, score in line if score < 10]
        axes.set_ylim(min(shown) / 1.2, max(shown) * 1.2)  # not where a first trial diverged
        plain_ticks(axes.yaxis, math.log10(1.44 * max(shown) / min(shown)))
    axes.legend(frameon=False)
    seeds = ", ".join(sorted({directory[-1] for _, directory in lines}))
    title = f"Seeds {seeds}; published: one run of the published settings for each"
    figure.suptitle(title, fontsize=11)
    save(figure, picture)


def main() -> None:
    folder, name, picture = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    lines, accuracy = lines_in(folder, name)
    print_table(folder, lines)
    draw(lines, accuracy, picture)


if __name__ == "__main__":
    main()
