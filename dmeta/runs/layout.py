"""The names of the files and folders of a run, each defined once."""

from __future__ import annotations

CONFIG = "config.json"
METRICS = "metrics.jsonl"
LOG = "log.jsonl"
RESULTS = "results.json"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
JOINT = "joint_baseline"
"""The folder in a run's own of the jointly pre-trained network that it is compared with."""

TRIALS = "trials"
"""Of a search: the folder of the trials' runs."""
TRIALS_TABLE = "trials.csv"
SEARCH = "search.json"
TUNE = "tune"
"""Of a search: the folder of Ray Tune's own state."""
FINAL = "final"
"""Of a search: the folder of the best settings' run, where they are trained again."""
PRESET = "best.yaml"
PAGE = "report.html"
