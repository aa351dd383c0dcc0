"""The same work in other libraries: packages of a few lines that stand in for them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dmeta.bench.agreement import BAR
from dmeta.bilevel.plans import block_gradient
from dmeta.training.autotune.gradient_error import in_float64, relative_difference
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.setup import Run, prepare
from tests.conftest import tiny_config
from tests.peers.fake import write_peer
from tests.peers.figure import peers_figure
from tests.peers.libraries import PEERS
from tests.peers.measure import OWN, PeerCost, PeerCosts, PeersOptions, peer_costs
from tests.peers.packages import import_peer
from tests.peers.references import of_dense_solve
from tests.peers.speed import main
from tests.peers.work import work_of


@pytest.fixture(autouse=True)
def _imported_anew() -> Iterator[None]:
    """Whatever was imported under a peer's name is forgotten, before and after every test."""
    _forget_peers()
    yield
    _forget_peers()


def _forget_peers() -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] in PEERS]:
        del sys.modules[module]


def run_of(**changes: Any) -> Run:
    return prepare(tiny_config("run", **changes))


def costs_of(run: Run, folder: Path, *names: str, **changes: Any) -> PeerCosts:
    paths = {name: str(folder) for name in names}
    options = PeersOptions(**{"peers": names, "paths": paths, "repeats": 1, **changes})
    return peer_costs(run, options, lambda line: None)


IMAGES = {"task": "glyphs", "task__num_classes": 50, "model": "conv4", "model__filters": 2}


@pytest.mark.parametrize(
    ("names", "changes"),
    [
        (tuple(PEERS), {"algorithm": "maml", "algorithm__inner_steps": 3}),
        (tuple(PEERS), {"algorithm": "maml", **IMAGES}),
        (tuple(PEERS), {"gradient": "checkpointed", "algorithm__inner_steps": 3}),
        (tuple(PEERS), {"gradient": "annealed", "compute__plan": "loop"}),
        (("learn2learn", "higher"), {"algorithm": "fomaml", "algorithm__inner_steps": 3}),
        (("learn2learn", "higher"), {"gradient": "annealed", "gradient__first_order_until": 9}),
        (("learn2learn",), {"algorithm": "anil", "algorithm__inner_steps": 2, **IMAGES}),
        (("learn2learn",), {"algorithm": "anil", "gradient": "first_order"}),
        (("learn2learn",), {"algorithm": "meta_sgd", "algorithm__inner_steps": 2}),
    ],
)
def test_a_peer_that_does_the_same_work_has_the_same_gradient(
    names: tuple[str, ...], changes: dict[str, Any], tmp_path: Path
) -> None:
    for name in names:
        write_peer(tmp_path, name)
    costs = costs_of(run_of(**changes), tmp_path, *names, num_tasks=2)
    assert costs.left_out == ()
    assert [row.library for row in costs.rows] == [OWN, *names]
    assert all(row.is_same for row in costs.rows)
    own, *others = (row.difference for row in costs.rows)
    assert own is None
    assert all(difference is not None and 0 <= difference < 1e-12 for difference in others)


@pytest.mark.parametrize("model", ["conv4", "resnet12"])
def test_a_network_as_in_textbooks_is_the_same_function_written_otherwise(
    model: str, tmp_path: Path
) -> None:
    sizes = {"conv4": {"model__filters": 2}, "resnet12": {"model__widths": [2, 2]}}[model]
    images = {key: value for key, value in IMAGES.items() if not key.startswith("model")}
    run = run_of(**images, model=model, **sizes)
    layers = {}
    for written in ("same", "textbook"):
        module = work_of(run, first_block_inputs(run, 1), written).module
        kinds = [type(layer).__name__ for layer in module.modules()]
        layers[written] = [k for k in kinds if k in ("MaxPool2d", "ReLU", "LeakyReLU")]
    assert layers["same"] != layers["textbook"]
    assert sorted(layers["same"]) == sorted(layers["textbook"])
    assert layers["textbook"][-2:] == [layers["same"][-1], "MaxPool2d"]
    write_peer(tmp_path, "learn2learn")
    costs = costs_of(run, tmp_path, "learn2learn", network="textbook", num_tasks=1)
    assert (costs.rows[1].difference or 0) < 1e-12


@pytest.mark.parametrize("name", PEERS)
def test_a_wrong_gradient_shows(name: str, tmp_path: Path) -> None:
    costs = costs_of(run_of(), write_peer(tmp_path, name, factor=1 + 1e-6), name)
    assert 1e-9 < (costs.rows[1].difference or 0) < 1e-4
    assert not costs.rows[1].is_same
    assert costs.rows[0].is_same


def test_the_order_of_the_gradient_is_that_of_the_run(tmp_path: Path) -> None:
    """First-order and exact differ, so a peer that is asked for the other one would show."""
    inputs = first_block_inputs(run_of(algorithm__inner_steps=3), 2)
    write_peer(tmp_path, "higher")
    import_peer("higher", tmp_path)
    first, second = (
        PEERS["higher"].gradient(work_of(run_of(gradient=g, algorithm__inner_steps=3), inputs))
        for g in ("first_order", "exact")
    )
    assert relative_difference(first, second) > 0.01


def test_what_a_peer_of_imaml_is_asked_for() -> None:
    """Against a dense solve, in place of a library."""
    run = run_of(
        algorithm="imaml", algorithm__inner_proximal=100.0, algorithm__inner_lr=0.002,
        gradient__iterations=60, gradient__tolerance=1e-14, model__hidden=4, task__shots=5,
    )  # fmt: skip
    inputs = in_float64(first_block_inputs(run, 2))
    work = work_of(run, inputs)
    assert (work.method, work.cg_steps, work.cg_tolerance) == ("imaml", 60, 1e-14)
    reference = block_gradient("vmap", run.work.estimator, *inputs).gradients
    assert relative_difference(of_dense_solve(work), reference) < 1e-10


def test_everything_is_measured(tmp_path: Path) -> None:
    write_peer(tmp_path, "higher")
    costs = costs_of(run_of(), tmp_path, "higher", repeats=3)
    assert costs.num_tasks == 5, "all tasks of an outer step"
    assert (costs.plan, costs.device, costs.threads, costs.bar) == ("vmap", "cpu", 1, BAR)
    for row in costs.rows:
        assert len(row.seconds) == 3
        assert row.peak_bytes > 1000
    assert costs.rows[1].version == "unknown"
    assert costs.rows[0].difference is None


def test_the_ratio_says_how_many_times_dmeta_is_as_fast() -> None:
    own = PeerCost(OWN, "1", (1.0, 2.0, 9.0), 10, None)
    peer = PeerCost("higher", "1", (3.0, 5.0, 4.0), 10, 1e-16)
    costs = PeerCosts(10, "vmap", "cpu", 1, BAR, (own, peer), ())
    assert (costs.ratio(own), costs.ratio(peer)) == (1, 2)
    assert (costs.tasks_per_second(own), costs.tasks_per_second(peer)) == (5, 2.5)
    nan = PeerCost("higher", "1", (1.0,), 10, float("nan"))
    assert not nan.is_same


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "protonet", **IMAGES}, "algorithm=protonet is not compared"),
        ({"algorithm": "maml_pp"}, "algorithm=maml_pp is not compared"),
        ({"algorithm__inner_momentum": 0.5}, "inner_momentum must be 0 for a comparison, got 0.5"),
        ({"algorithm__inner_clip_norm": 1.0}, "inner_clip_norm must be null for a comparison"),
        ({"algorithm": "reptile"}, "inner_optimizer must be sgd for a comparison, got adam"),
        ({"algorithm": "body_only"}, "has algorithm.adapt=body"),
        ({"algorithm__learn_inner_lr": "per_tensor"}, "learn_inner_lr=per_tensor"),
        ({"algorithm__inner_proximal": 2.0}, "with gradient=another than implicit"),
        ({"gradient": "truncated"}, "gradient=truncated is not compared"),
        ({"algorithm": "imaml", "gradient__damping": 1.0}, "gradient.damping must be 0"),
        ({"algorithm": "imaml"}, "iMAML is not compared with it, only MAML, first-order MAML"),
        ({"algorithm": "anil"}, "ANIL is not compared with it, only MAML, first-order MAML"),
    ],
)
def test_what_a_peer_can_not_do_is_left_out_with_the_reason(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    costs = costs_of(run_of(**changes), write_peer(tmp_path, "higher"), "higher", num_tasks=1)
    assert [row.library for row in costs.rows] == [OWN]
    assert [each.library for each in costs.left_out] == ["higher"]
    assert words in costs.left_out[0].reason
    assert "higher" not in sys.modules


def test_a_peer_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.peers.measure.import_peer", lambda name, folder: None)
    options = PeersOptions(peers=("higher", "higher"), repeats=1)
    costs = peer_costs(run_of(), options, lambda line: None)
    wanted = "not installed; pip install higher, or bench.paths.higher=FOLDER"
    assert [each.reason for each in costs.left_out] == [wanted]


def test_a_peer_that_fails_leaves_the_others(tmp_path: Path) -> None:
    for name in PEERS:
        write_peer(tmp_path, name)
    (tmp_path / "higher" / "__init__.py").write_text("innerloop_ctx = None\n")
    (tmp_path / "torchopt" / "__init__.py").write_text("import no_such_library_at_all\n")
    costs = costs_of(run_of(), tmp_path, *PEERS)
    assert [row.library for row in costs.rows] == [OWN, "learn2learn"]
    reasons = {each.library: each.reason for each in costs.left_out}
    assert reasons["higher"].startswith("it fails: TypeError: ")
    assert reasons["torchopt"].startswith("it cannot be imported: ModuleNotFoundError: ")
    assert "torchopt" not in sys.modules


def test_the_package_of_the_folder_is_taken_whatever_was_imported_before(tmp_path: Path) -> None:
    right = write_peer(tmp_path / "right", "higher")
    wrong = write_peer(tmp_path / "wrong", "higher", factor=2.0)
    same = [
        costs_of(run_of(), folder, "higher").rows[1].is_same
        for folder in (right, wrong, wrong, right)
    ]
    assert same == [True, False, False, True]
    assert str(tmp_path) not in " ".join(sys.path)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_version_of_a_checkout_is_its_commit(tmp_path: Path) -> None:
    write_peer(tmp_path, "higher")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    command = [*git, "rev-parse", "HEAD"]
    full = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    commit = import_peer("higher", tmp_path)
    assert commit is not None
    assert len(commit) >= 7
    assert full.startswith(commit)


def test_a_peer_gets_the_network_with_batch_norm_of_torch() -> None:
    run = run_of(**IMAGES)
    inputs = first_block_inputs(run, 1)
    moved = {name: p + 0.01 for name, p in inputs.meta_params.items()}
    work = work_of(run, inputs._replace(meta_params=moved))
    norms = [m for m in work.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 4
    x = inputs.tasks.support.x[0]
    expected = inputs.algorithm.network.apply(moved, x)
    torch.testing.assert_close(work.module(x), expected)
    torch.testing.assert_close(work.module.eval()(x), expected)
    before = inputs.algorithm.network.apply(inputs.meta_params, x)
    assert not torch.allclose(before, expected), "the weights are those that are given"


@pytest.mark.parametrize("names", [(), ("higher",)])
def test_the_figure_is_written(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [PeerCost(name, "1", (0.1, 0.2, 0.4), 2**20, None) for name in (OWN, *names)]
    costs = PeerCosts(10, "vmap", "cpu", 1, BAR, tuple(rows), ())
    path = peers_figure(costs, "maml on sinusoid", tmp_path / "new" / "peers.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peers": ()}, "bench.peers must have an entry"),
        ({"peers": ("highre",)}, "did you mean 'higher'"),
        ({"paths": {"learn": "x"}}, "bench.paths must name some of learn2learn, higher, torchopt"),
        ({"num_tasks": 0}, "bench.num_tasks must be >= 1"),
        ({"repeats": 0}, "bench.repeats must be >= 1"),
        ({"paths": {"higher": "nowhere"}}, "got nowhere, which has no higher/__init__.py"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PeersOptions(**changes)


def test_a_folder_without_init_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "higher").mkdir()
    with pytest.raises(ValueError, match="must be the folder that the package higher lies in"):
        PeersOptions(paths={"higher": str(tmp_path)})


def test_the_command_tells_what_each_library_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_peer(tmp_path, "higher", factor=2.0)
    few = [
        "compute.plan=vmap",
        "bench.num_tasks=2",
        "bench.repeats=2",
        "bench.peers=[higher]",
        "bench.out=out",
    ]
    assert main([*few, "bench.paths.higher=.", "algorithm.inner_lr=0.02"]) == 0
    out = capsys.readouterr().out
    for words in ("tasks/s", "one block of 2 tasks", "not the same: higher", "out/peers.png"):
        assert words in out
    told = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert told["settings"]["algorithm"]["inner_lr"] == 0.02
    assert told["bench"]["paths"] == {"higher": "."}
    own, peer = told["rows"]
    assert (own["library"], peer["library"]) == ("dmeta", "higher")
    assert peer["ratio"] == pytest.approx(peer["median_seconds"] / own["median_seconds"])
    assert peer["tasks_per_second"] == pytest.approx(2 / peer["median_seconds"])
    assert peer["difference"] > told["bar"]
    assert not peer["is_same"]
    assert (tmp_path / "out" / "peers.png").stat().st_size > 10_000
    assert main([*few, "bench.paths.higher=.", "algorithm=anil"]) == 0
    assert "not measured: higher: ANIL is not compared with it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bench.peers=[lern2learn]", r"did you mean 'learn2learn'"),
        ("bench.paths=5", r"bench.paths must be a group, of which each is a text or null"),
        ("bench.paths.highr=x", r"did you mean 'higher'"),
        ("bench.paths.higher=.", r"got ., which has no higher/__init__.py"),
        (
            "compute.precision=bfloat16 compute.plan=loop task=glyphs",
            r"compute.precision must be float32, in which the peers compute",
        ),
        ("bench.network=theirs", r"bench.network must be same or textbook"),
        ("bench.inner_steps=[1]", r"unknown key 'bench.inner_steps'"),
    ],
)
def test_wrong_words_are_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert re.search(message, capsys.readouterr().err)
