"""`dmeta list` and `dmeta data`: what can be trained, and on which data."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.transforms import TRANSFORMS
from dmeta.cli.settings.config_files import preset_names
from dmeta.formatting import safe_text
from dmeta.metrics import METRICS
from dmeta.models import MODELS
from dmeta.tasks import TASKS
from dmeta.tasks.augmentation import AUGMENTATIONS


def list_command() -> None:
    """Algorithms, meta-gradients, tasks, models, with their source; and the presets."""
    console = Console()
    for title, registry in (
        ("algorithm", ALGORITHMS),
        ("gradient", ESTIMATORS),
        ("algorithm.inner_chain", TRANSFORMS),
        ("task", TASKS),
        ("task.augment", AUGMENTATIONS),
        ("model", MODELS),
        ("eval.metrics", METRICS),
    ):
        table = Table(title=f"{title}=", title_justify="left", show_header=False, box=None)
        for name in registry:
            entry = registry.builtin.get(name) or registry[name]  # not imported
            table.add_row(f"  [bold]{name}[/bold]", entry.summary, f"[dim]{entry.source}[/dim]")
        console.print(table)
    for group, what in (
        ("experiment", "settings that reproduce a published cell"),
        ("search", "of dmeta tune: how settings are searched"),
        ("search/space", "of dmeta tune: which ones"),
    ):
        console.print(f"{group}= ({what})")
        for name in preset_names(group):
            console.print(f"  [bold]{name}[/bold]")


def data_command(root: str | None) -> None:
    """What data is there, where, complete or not, and how to get what is missing."""
    from dmeta.tasks.inventory import default_root, inventory  # imports torch

    console = Console()
    where = root or default_root()
    _say(console, f"data root: {where} (change it with DMETA_DATA or `dmeta data root=...`)")
    for status in inventory(where):
        if not status.needs_data:
            console.print(f"  [green]ready[/green]    {status.name}: needs no data")
        elif status.complete:
            console.print(f"  [green]complete[/green] {status.name}: ", end="")
            _say(console, f"{', '.join(status.where)} ({status.found})")
        else:
            console.print(f"  [red]missing[/red]  {status.name}")
            for line in status.missing:
                _say(console, f"             lacks {line}")
            _say(console, f"             {status.how_to_get}")


def _say(console: Console, line: str) -> None:
    console.print(safe_text(line, console), soft_wrap=True)
