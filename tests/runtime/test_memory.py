"""Memory that is freed is taken again without a page fault."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import numpy as np

from dmeta.runtime.memory import keep_freed_memory


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if sys.argv[1] == "keep" and not keep_freed_memory():
    print("none")
    sys.exit()
for _ in range(3):
    before = faults()
    np.ones(int(sys.argv[2]) // 4, np.float32)  # freed at once
    again = faults() - before
print(again)
"""


def faults(mode: str, size_bytes: int) -> int:
    """Page faults of taking so many bytes for the third time."""
    command = [sys.executable, "-c", FAULTS, mode, str(size_bytes)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if told == "none":
        pytest.skip("the allocator is not glibc's")
    return int(told)


@pytest.mark.parametrize("size_bytes", [4 << 20, 100 << 20])
def test_freed_memory_is_kept_whatever_its_size(size_bytes: int) -> None:
    assert faults("keep", size_bytes) < 10
    if size_bytes > 32 << 20:  # what glibc always gives back if it is not told
        assert faults("leave", size_bytes) > 40
