"""HTML pages in one file each, which need no other file and no network.

Knows nothing of what a page says: templates extend ``base.html``. All that is put into a template
is escaped, plotly's own script excepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs


def write_page(path: Path, template: str, **content: Any) -> None:
    """Render a template of this package into a file.

    Args:
        path: the file.
        template: its name in ``templates``.
        content: what it names; `title` is that of every page.

    Raises:
        ValueError: a figure has a number that is NaN or infinite.
    """
    environment = Environment(
        loader=PackageLoader("dmeta.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # JSON has neither
    page = environment.get_template(template).render(
        plotly_script=Markup(get_plotlyjs()), **content
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
