"""The documentation site: `sphinx-build -W -b html docs docs/_build/html`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from reference_pages import write_pages  # noqa: E402 - in _ext

import dmeta  # noqa: E402

project = "dmeta"
author = "the dmeta authors"
release = version = dmeta.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = f"dmeta {release}"
html_static_path: list[str] = ["_static"]
html_css_files = ["dmeta.css"]
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
html_sidebars = {"index": []}


_LITERAL_OR_SHAPE = re.compile(r"``[^`]*``|`[^`]*`|\[[^\]`]*\*[^\]`]*\]|\|[^|`\s][^|`]*\|(?:\^\d)?")


def _literal_shapes(*event: Any) -> None:
    """Shapes such as [S, *input_shape] in docstrings become literals: ``*`` is no emphasis.

    Args:
        event: of ``autodoc-process-docstring``; the last one is the list of lines, changed here.
    """
    lines = event[-1]
    for number, line in enumerate(lines):
        lines[number] = _LITERAL_OR_SHAPE.sub(
            lambda found: found[0] if found[0].startswith("`") else f"``{found[0]}``", line
        )


def setup(app: Any) -> None:
    """Write the generated pages; connect the hook, before napoleon reads the docstrings."""
    write_pages(HERE)
    app.connect("autodoc-process-docstring", _literal_shapes, priority=400)
