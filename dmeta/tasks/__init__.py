"""Task sources by name; a new one is its own file, its YAML, and its line here."""

from __future__ import annotations

from dmeta.registry import Entry, Registry
from dmeta.tasks.omniglot import omniglot
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import TaskSource

TASKS: Registry[TaskSource] = Registry(
    "task",
    {
        "omniglot": Entry(
            omniglot,
            "1,623 handwritten characters x 20 drawings, 28x28",
            "Lake et al. 2015; split of Vinyals et al. 2016, arXiv:1606.04080",
        ),
        "sinusoid": Entry(
            Sinusoid,
            "regression of sine waves; needs no data",
            "Finn et al. 2017, arXiv:1703.03400, sec. 5.1",
        ),
    },
)
