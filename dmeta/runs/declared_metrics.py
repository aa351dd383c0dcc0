"""The metrics that a run's files declare; those of earlier versions do not.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmeta.metrics import METRICS, default_metric
from dmeta.metrics.declaration import Declaration, declaration_of

DECLARED = "metrics"
"""Key of config.json and results.json: a list of declarations, the primary metric first."""


def declared_metrics(content: Mapping[str, Any]) -> list[Declaration]:
    """The metrics of a run, the primary one first.

    Args:
        content: of config.json, results.json or evaluation.json. Of earlier versions: they name the
            metric, or the kind of tasks.

    Raises:
        ValueError: they are not what a run writes.
    """
    if found := content.get(DECLARED):
        return [declaration_of(each) for each in found]
    if isinstance(name := content.get("metric"), str) and name in METRICS.builtin:
        return [METRICS[name].make().declaration]
    classifies = content.get("shapes", {}).get("kind") == "classification"
    return [default_metric("classification" if classifies else "regression").declaration]
