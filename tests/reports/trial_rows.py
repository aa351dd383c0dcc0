"""Trials of searches that nobody ran."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmeta.search.trials import TrialRow


def trial_row(number: int, point: dict[str, Any], score: float | None, **changes: Any) -> TrialRow:
    """A trial of ten steps: finished with the score, or diverged if that is None."""
    own: dict[str, Any] = {
        "trial_id": str(number),
        "status": "finished" if score is not None else "diverged",
        "ci95": 0.1,
        "scores": np.zeros(0),
        "of_step": 10,
        "step": 10,
        "tasks": 100,
        "seconds": 1.0,
        "failures": 0,
        "run_dir": str(number),
        "error": None,
    }
    return TrialRow(number=number, point=point, score=score, **{**own, **changes})
