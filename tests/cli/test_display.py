"""The progress display and the table at the end say what they are of, and lose nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dmeta.cli.terminal.display import Display
from dmeta.cli.terminal.results_table import print_results, shown_steps
from dmeta.formatting import duration, score
from dmeta.metrics import METRICS, default_metric
from dmeta.metrics.declaration import as_plain
from dmeta.runtime.messages import ApplyReport, StepReport

ACCURACY = default_metric("classification").declaration
MSE = default_metric("regression").declaration
REPORT = StepReport([], ApplyReport(0, applied=True, gradient_norm=1.0, lr=0.1), 0, 0, 1.0)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=80, color_system=None), file


def _train(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "event": "train", "step": step, "loss": 0.1234, "accuracy": 0.951, "seconds": 1.0,
        "tasks_per_second": 312.4, "rejected": 0, "retried_blocks": 0, **changes,
    }  # fmt: skip


def _val(step: int) -> dict[str, Any]:
    return {"event": "val", "step": step, "num_tasks": 200, "accuracy": 0.942, "ci95": 0.011}


def _lines(rows: list[dict[str, Any]], *, total: int = 1000, every_s: float = 10.0) -> list[str]:
    """Plain lines of a run whose every step takes one second."""
    console, file = _console()
    clock = Clock()
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    with Display(console, every_s, clock) as display:
        display.start([], total, 0, ACCURACY)
        for step in range(1, max(by_step) + 1):
            clock.now += 1.0
            display.on_step(step, REPORT)
            for row in by_step.get(step, []):
                display.on_row(row)
    return file.getvalue().splitlines()


def test_a_line_has_the_training_and_the_validation_of_its_step() -> None:
    (line,) = _lines([_train(100), _val(100)])
    assert line == (
        "step 100/1000  loss 0.123  accuracy 95.1%  312 tasks/s  15:00 left  "
        "val accuracy 94.2±1.1% (200 tasks)"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_a_second_run_is_shown_from_its_own_beginning(terminal: bool) -> None:
    console, file = _console(terminal=terminal)
    with Display(console, clock=Clock()) as display:
        display.start(["first"], 100, 0, ACCURACY)
        display.on_step(100, REPORT)
        display.on_row(_train(100))
        display.start(["second"], 50, 0, MSE)
        display.on_step(1, REPORT)
        display.on_row({"event": "train", "step": 1, "loss": 0.25, "mse": 0.25})
    text = file.getvalue()
    assert text.index("first") < text.index("100/100") < text.index("second")
    after = text[text.index("second") :]
    assert "1/50" in after
    assert "mse 0.250" in after
    assert "accuracy" not in after


def test_lines_wider_than_the_console_are_not_broken() -> None:
    (line,) = _lines([_train(100, rejected=3, retried_blocks=2), _val(100)])
    assert len(line) > 80


def test_the_mse_of_a_regression_is_not_shown_twice() -> None:
    console, file = _console()
    with Display(console) as display:
        display.start([], 10, 0, MSE)
        display.on_row({"event": "train", "step": 1, "loss": 0.25, "mse": 0.25})
    assert file.getvalue() == "step 1/10  mse 0.250\n"


def test_training_lines_are_throttled_but_for_the_last() -> None:
    lines = _lines([_train(step) for step in range(1, 31)], total=30)
    assert [line.split()[1] for line in lines] == ["1/30", "11/30", "21/30", "30/30"]


def test_every_validation_is_shown_with_its_training_row() -> None:
    rows = [_train(1), _train(2), _val(2), _train(3), _val(3)]
    lines = _lines(rows, every_s=1e9)
    assert [line.count("val accuracy") for line in lines] == [0, 1, 1]
    assert all("loss 0.123" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "words"), [("rejected", "rejected steps 4"), ("retried_blocks", "retried blocks 4")]
)
def test_a_new_rejection_or_retry_is_shown_at_once_and_stays(key: str, words: str) -> None:
    rows = [_train(1), _train(2), _train(3, **{key: 4}), _train(4, **{key: 4}), _val(4)]
    lines = _lines(rows, every_s=1e9)
    assert [line.split()[1] for line in lines] == ["1/1000", "3/1000", "4/1000"]
    assert [words in line for line in lines] == [False, True, True]


def test_a_step_without_a_finite_gradient_has_no_loss_to_show() -> None:
    row = {"event": "train", "step": 1, "rejected": 1, "retried_blocks": 0, "seconds": 1.0}
    assert _lines([row]) == ["step 1/1000  rejected steps 1"]


def test_messages_keep_their_brackets_and_their_place() -> None:
    console, file = _console()
    with Display(console) as display:
        display.start(["a [bold]title[/bold]"], 10, 4, ACCURACY)
        display.on_row(_train(5))
        display.message("worker [3] is lost")
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["a [bold]title[/bold]", "going on after step 4/10"]
    assert lines[2].startswith("step 5/10")
    assert lines[3] == "worker [3] is lost"


def test_what_waits_is_shown_when_a_run_breaks() -> None:
    console, file = _console()
    display = Display(console)
    display.start([], 10, 0, ACCURACY)
    display.on_row(_train(5))
    assert file.getvalue() == ""
    with pytest.raises(RuntimeError, match="stopped"), display:
        raise RuntimeError("stopped")
    assert "step 5/10" in file.getvalue()
    display.close()
    assert file.getvalue().count("step 5/10") == 1


def test_a_terminal_gets_a_bar_with_the_last_numbers() -> None:
    console, file = _console(terminal=True)
    with Display(console) as display:
        display.start(["maml on omniglot"], 10, 0, ACCURACY)
        for step in range(1, 11):
            display.on_step(step, REPORT)
        display.on_row(_train(10, rejected=2))
        display.on_row(_val(10))
    last = file.getvalue()[file.getvalue().rindex("step 10/10") :]
    assert "100%" in last
    assert "loss 0.123  accuracy 95.1%  312 tasks/s  rejected steps 2" in last
    assert "94.2±1.1%" in last


def _evaluation(metric: str, together: list[float], apart: list[float]) -> dict[str, Any]:
    return {
        "split": "test", "num_tasks": 600, "metric": metric, "step": 60000, "model": "single",
        "num_models": 1,
        "transductive": {"mean": together, "ci95": [0.0031] * len(together)},
        "non_transductive": {"mean": apart, "ci95": [0.0044] * len(apart)},
    }  # fmt: skip


def _printed(results: dict[str, Any], encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=80, color_system=None)
    print_results(results, [Path("runs/x/results.json"), Path("runs/x/m")], "dmeta list", console)
    return raw.getvalue().decode(encoding)


_ACCURACIES = [0.2, 0.5, 0.6, 0.7, 0.75, 0.8, 0.81, 0.82, 0.83, 0.84, 0.98765]
_RESULTS: dict[str, Any] = {
    "metric": "accuracy",
    "algorithm": "maml",
    "test": _evaluation("accuracy", _ACCURACIES, [a - 0.01 for a in _ACCURACIES]),
    "joint_baseline": {"test": _evaluation("accuracy", [0.2, 0.31], [0.2, 0.31])},
    "meta_params_sha256": "ab" * 32,
    "training": {
        "steps": 60000, "seconds": 3723.0, "tasks_per_second": 512.3,
        "rejected_steps": 2, "retried_blocks": 0,
    },
}  # fmt: skip


def test_the_table_says_what_each_number_is_of() -> None:
    text = _printed(_RESULTS)
    row = next(line for line in text.splitlines() if line.startswith("│    10"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "10", "98.77 ±0.31%", "97.77 ±0.44%", "",
    ]  # fmt: skip
    assert "31.00 ±0.31%" in text
    for words in ("maml", "joint baseline", "600 test tasks", "transductive", "single model"):
        assert words in text
    assert "95% confidence interval" in text


def test_the_table_is_followed_by_what_was_written_and_what_to_do_next() -> None:
    lines = _printed(_RESULTS).splitlines()
    assert "training  60000 outer steps in 1:02:03, 512 tasks/s, rejected steps 2" in lines
    assert f"sha256    {'ab' * 32} (meta-parameters of the last step)" in lines
    assert lines[-3:] == [
        "wrote     runs/x/results.json",
        "          runs/x/m",
        "next      dmeta list",
    ]


def test_passwords_in_addresses_are_not_shown() -> None:
    console, file = _console()
    address = "s3://me:secret1@host/run?token=secret2"
    Display(console).start([f"writing to {address}"], 5, 0, MSE)
    print_results(_RESULTS, [address], f"dmeta evaluate run_dir={address}", console)
    text = file.getvalue()
    assert "secret" not in text
    assert text.count("s3://***@host/run?token=***") == 3
    assert "next      dmeta evaluate run_dir=s3://***@host/run" in text
    assert text.endswith("passwords and keys in addresses are shown as ***\n")


def test_errors_have_three_digits_and_equal_modes_share_a_column() -> None:
    mse = [3.9, 0.12345]
    text = _printed(
        {"metric": "mse", "algorithm": "maml", "test": _evaluation("mse", mse, mse)},
    )
    assert "0.123 ±0.0031" in text
    assert "3.90 ±0.0031" in text
    assert "or not: same" in text
    assert "non-" not in text


def test_a_method_without_an_inner_loop_has_no_column_of_inner_steps() -> None:
    test = _evaluation("accuracy", [0.5], [0.4])
    tasks = {"name": "glyphs", "ways": 5, "shots": 1, "queries": 15}
    text = _printed({"metric": "accuracy", "algorithm": "protonet", "test": test, "tasks": tasks})
    assert text.startswith("accuracy: mean ± 95% confidence interval, single model, 60000 outer")
    assert "inner" not in text
    assert re.search(r"│ +50.00 ±0.31% │ +40.00 ±0.44% │", text)
    assert "tasks     glyphs: 5 ways, 1 shot, 15 queries per class" in text
    assert "accuracy after 0, 1, ... inner steps: mean" in _printed(_RESULTS)


def test_further_metrics_without_inner_steps_are_rows_by_name() -> None:
    metrics = [as_plain(METRICS[name].make().declaration) for name in ("accuracy", "ece")]
    score = {"mean": 0.07, "ci95": 0.01}
    test = _evaluation("accuracy", [0.5], [0.4]) | {
        "further": {"ece": {"transductive": score, "non_transductive": score}}
    }
    text = _printed({"metrics": metrics, "algorithm": "protonet", "test": test})
    assert "inner" not in text
    assert re.search(r"│ +accuracy │ +50.00 ±0.31% │ +40.00 ±0.44% │", text)
    assert re.search(r"│ +ece │ +7.00 ±1.00% │", text)


def test_predictions_that_are_not_finite_are_told_under_the_table_and_of_a_validation() -> None:
    def counted(evaluation: dict[str, Any], count: int) -> dict[str, Any]:
        return {**evaluation, "num_non_finite": count}

    joint = {"test": counted(_RESULTS["joint_baseline"]["test"], 5)}
    text = _printed({**_RESULTS, "test": counted(_RESULTS["test"], 7), "joint_baseline": joint})
    warnings = [line for line in text.splitlines() if line.startswith("warning   ")]
    assert "NaN or infinite in 7 of 600 test tasks" in warnings[0]
    assert "joint baseline: predictions were NaN or infinite in 5 of 600" in warnings[1]
    assert "warning" not in _printed(_RESULTS)
    (line,) = _lines([_train(100), {**_val(100), "num_non_finite": 3}])
    assert line.endswith("val accuracy 94.2±1.1% (200 tasks, 3 not finite)")


def test_an_ascii_terminal_is_no_reason_to_fail() -> None:
    assert "98.77 +-0.31%" in _printed(_RESULTS, encoding="ascii")


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        (0, [0]),
        (1, [0, 1]),
        (5, [0, 1, 2, 3, 5]),
        (10, [0, 1, 2, 3, 5, 10]),
        (50, [0, 1, 2, 3, 5, 50]),
    ],
)
def test_shown_steps_end_with_the_last(last: int, steps: list[int]) -> None:
    assert shown_steps(last) == steps


def test_scores_and_durations() -> None:
    assert score("target squared", 0.3, 0.0123) == "0.300±0.012"
    assert score("target squared", 1234.5) == "1234"
    assert score("target squared", 123.4) == "123"
    assert score("fraction", 1.0, 0.0, 2) == "100.00±0.00%"
    assert score("target squared", float("nan"), float("nan")) == "nan (no interval)"
    assert score("fraction", 0.5, float("nan"), 2) == "50.00% (no interval)"
    assert duration(59.7) == "1:00"
    assert duration(3787) == "1:03:07"
