"""The verbs of the command line: their names, one line of help each, and what they take."""

from __future__ import annotations

from collections.abc import Mapping

VERBS = {
    "train": "meta-train a few-shot learner",
    "tune": "search learning rates, step counts, or any other setting",
    "evaluate": "evaluate a trained run on tasks of unseen classes",
    "embed": "write what a trained network makes of its data set, for task=features",
    "replay": "compute a block of a run again, alone: which task is it that went wrong?",
    "bench": "what a run's choices cost: dmeta bench gradients, plans, ...",
    "submit": "train, tune or evaluate on a Ray cluster: dmeta submit train ...",
    "status": "how a run or a search is doing, while it goes on or afterwards",
    "list": "algorithms, tasks, models and presets",
    "data": "which data is there; dmeta data check task=...: what is in it",
    "new": "write a new algorithm, task or model, ready to fill in",
    "doctor": "check this machine: Python, torch, Ray, memory, disk, data; with remedies",
    "completion": "print the completion script of a shell: dmeta completion bash",
}

DATA_CHECK = "data_check"
"""What ``dmeta data check`` is called where verbs have one word."""

CONFIGURED = ("train", "tune", "evaluate", "embed", "replay", "bench", DATA_CHECK)
"""Verbs with settings (`dmeta.cli.settings.verb_configs`), and VERB_command in dmeta/cli/VERB."""

PLAIN: Mapping[str, Mapping[str, str]] = {
    "list": {},
    "data": {"root": "FOLDER"},
    "status": {"run_dir": "FOLDER", "json": "true", "watch": "true"},
}
"""Verbs without Hydra, and the keys that they take."""

WORDS = ("submit", "new", "doctor", "completion")
"""Verbs that read their arguments themselves: VERB_command(arguments) -> exit code."""

BENCHES = {
    "accuracy": "every method on the same tasks, trained for the same seconds: accuracies, curves",
    "gradients": "every meta-gradient: seconds, memory, and how far it is from the exact one",
    "methods": "every method on the same tasks: seconds and memory, against MAML's",
    "plans": "every execution plan: tasks per second, memory, seconds to compile",
    "profile": "where the time of an outer step goes, with the run's own workers",
    "scale": "how many steps a second the parameter server takes, for any number of workers",
}

SUBMITS = ("train", "tune", "evaluate", "attach", "stop")

KINDS = ("algorithm", "task", "model")
"""What `dmeta new` writes."""

SHELLS = ("bash", "zsh", "fish")

QUERY = "--complete"
"""First argument of a shell's question: what can follow on the command line that comes next?"""
