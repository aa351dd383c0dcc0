from __future__ import annotations

from pathlib import Path

from tests.conftest import CLUSTERS, LONGEST, group_of

TESTS = Path(__file__).parent


def test_what_shares_a_process_is_there() -> None:
    assert [name for name in (*LONGEST, *CLUSTERS) if not (TESTS / name).exists()] == []


def test_files_that_start_clusters_for_minutes_are_in_one_group_and_others_alone() -> None:
    assert {group_of(f"tests/{file}::test_it[a::b]") for file in CLUSTERS} == {CLUSTERS[0]}
    assert group_of("tests/runtime/ray/test_elastic.py::test_it") == "runtime"
    assert group_of("tests/cli/test_new.py::test_it") == "cli/test_new.py"
