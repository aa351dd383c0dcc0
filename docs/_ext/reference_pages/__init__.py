"""Reference pages of the documentation site, written from the code when the site is built.

Everything here reads dmeta and returns Markdown. Nothing here knows Sphinx.
"""

from __future__ import annotations

from pathlib import Path

from reference_pages.cluster import cluster_page, grafana_page
from reference_pages.data_sets import data_sets_page
from reference_pages.methods import method_pages
from reference_pages.settings import settings_page
from reference_pages.verbs import verbs_page


def write_pages(docs: Path) -> list[Path]:
    """Write every generated page under `docs`; files whose text has not changed are left alone.

    Args:
        docs: the source folder of the site; its parent is the checkout.

    Returns: the pages, for a check that they are there.
    """
    folder = docs / "reference" / "generated"
    pages = {
        "settings.md": settings_page(),
        "data_sets.md": data_sets_page(),
        "verbs.md": verbs_page(),
        "cluster.md": cluster_page(docs.parent),
        "grafana.md": grafana_page(docs.parent),
        **{f"methods/{name}.md": text for name, text in method_pages().items()},
    }
    written = []
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        written.append(path)
    for stale in set(folder.rglob("*.md")) - set(written):
        stale.unlink()
    return written
