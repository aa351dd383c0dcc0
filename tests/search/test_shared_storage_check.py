"""Every node is asked whether it sees the search's folder, and those that do not are named."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dmeta.addresses import open_address
from dmeta.runs.remote_mirror import DistantFolder
from dmeta.search.shared_storage_check import AliveNode, check_seen

NODES = [AliveNode(str(i), f"10.0.0.{i}") for i in range(4)]


class Mounts:
    """What each node has at the folder's path; None: it is silent."""

    def __init__(self, **folders: Path | None) -> None:
        self.folders = {key.removeprefix("n"): folder for key, folder in folders.items()}
        self.asked: list[AliveNode] = []

    def __call__(self, nodes: Sequence[AliveNode], location: str) -> Mapping[AliveNode, str]:
        self.asked += nodes
        path = Path(location)
        seen = {node: self.folders.get(node.node_id, path.parent) for node in nodes}
        found = {node: folder / path.name for node, folder in seen.items() if folder is not None}
        return {n: file.read_text() if file.exists() else "" for n, file in found.items()}


def test_nodes_that_see_the_folder_pass_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    mounts = Mounts()
    check_seen(str(tmp_path), NODES, mounts)
    assert mounts.asked == NODES
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_have_another_folder_there_are_named(tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    words = r"see the search's run_dir, got .*here, which 2 of 4 nodes \(10.0.0.1, 10.0.0.3\)"
    with pytest.raises(ValueError, match=words):
        check_seen(str(here), NODES, Mounts(n1=tmp_path / "none", n3=other))
    assert list(here.iterdir()) == []


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no answer from 1 of 4 nodes \(10.0.0.2\) in 120 s"):
        check_seen(str(tmp_path), NODES, Mounts(n2=None))


def test_a_cluster_of_one_node_is_not_asked(tmp_path: Path) -> None:
    mounts = Mounts(n0=None)
    check_seen(str(tmp_path), NODES[:1], mounts)
    assert mounts.asked == []


def test_nodes_that_can_not_read_an_address_are_named_and_nothing_is_left_there() -> None:
    address = f"memory://{uuid.uuid4().hex}/search"
    asked: list[str] = []

    def read(nodes: Sequence[AliveNode], location: str) -> Mapping[AliveNode, str]:
        files, path = open_address(location, "run_dir")
        asked.append(files.cat_file(path).decode())
        return {nodes[0]: asked[0], nodes[1]: asked[0], nodes[2]: "", nodes[3]: asked[0]}

    with pytest.raises(ValueError, match=r"\(10.0.0.2\) cannot read; give every node"):
        check_seen(address, NODES, read)
    assert len(asked[0]) == 32
    assert DistantFolder(address).find("*") == []
