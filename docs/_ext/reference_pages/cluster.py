"""The pages of cluster/README.md and cluster/grafana/README.md, as pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

_TO_ROOT = "../../../"
"""From the folder of generated pages to the checkout."""


def cluster_page(checkout: Path) -> str:
    """How a Ray cluster is started, used and removed."""
    return _moved(checkout, "cluster/README.md", "Start and use a Ray cluster")


def grafana_page(checkout: Path) -> str:
    """The Grafana dashboard."""
    return _moved(checkout, "cluster/grafana/README.md", None)


def _moved(checkout: Path, name: str, title: str | None) -> str:
    """The text of a file with its links as seen from the folder of generated pages."""
    path = checkout / name
    text = path.read_text(encoding="utf-8")
    if title is not None:
        text = re.sub(r"\A# .*", f"# {title}", text)

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if target.startswith(("#", "http")):
            return match[0]
        return f"]({_TO_ROOT}{(Path(name).parent / target).as_posix()})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)
