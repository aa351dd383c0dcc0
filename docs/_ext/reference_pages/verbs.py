"""The page of verbs: what `dmeta VERB --help` prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from dmeta.cli.main import BENCHES, PLAIN, VERBS

_SECONDS = 300


def verbs_page() -> str:
    """The page."""
    verbs = list(VERBS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = dict(zip([*verbs, ""], pool.map(help_of, [*verbs, ""]), strict=True))
    parts = [
        "# Command line",
        "What `dmeta --help` and `dmeta VERB --help` print. This page is generated from them.",
        _code(texts[""]),
    ]
    for verb in verbs:
        parts += [f"## `dmeta {verb}`", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}."]
        parts += [_code(texts[verb])]
    return "\n\n".join(parts) + "\n"


def help_of(verb: str) -> str:
    """What `dmeta VERB --help` prints, or the keys of a verb that has no such flag."""
    command = [sys.executable, "-m", "dmeta", *filter(None, [verb]), "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    environment.pop("DMETA_DATA", None)
    done = subprocess.run(  # our own program
        command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False
    )
    if done.returncode == 0:
        return done.stdout
    if verb in PLAIN:
        keys = "".join(f" [{key}={value}]" for key, value in PLAIN[verb].items())
        return f"usage: dmeta {verb}{keys}"
    raise RuntimeError(f"dmeta {verb} --help must print a help text, got:\n{done.stderr}")


def bench_names() -> list[str]:
    """The benches, for a check that the page names them."""
    return list(BENCHES)


def _code(text: str) -> str:
    lines = [re.sub(r"\s+$", "", line) for line in text.strip().splitlines()]
    return "\n".join(["```text", *lines, "```"])
