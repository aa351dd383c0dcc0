"""The command line as a user meets it: verbs and Hydra's own flags (wrong input: test_refused)."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from pathlib import Path

import pytest
import torch

from dmeta.cli import main
from dmeta.cli.train import train
from dmeta.training.interrupts import Stopped
from dmeta.training.session import Session

QUICK = [
    "runtime=local",
    "steps=2",
    "eval.num_tasks=4",
    "eval.every=0",
    "joint_baseline=false",
]


def dmeta(*arguments: str) -> int:
    """Exit code of `dmeta ARGUMENTS`, run in this process."""
    try:
        main.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMETA_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["dmeta"])


def _table_of(out: str) -> list[str]:
    """The lines of a terminal's width: the plan and what was found of it is a sentence."""
    return [line for line in out.splitlines() if not line.startswith("plan=")]


@pytest.mark.usefixtures("figures")
def test_train_resume_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("train", *QUICK, "run_dir=run") == 0
    assert Path("run/figures/learning_curve.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "run/results.json" in out
    assert "dmeta evaluate run_dir=run" in out
    assert dmeta("train", *QUICK, "run_dir=run") == 2
    assert "resume=true" in capsys.readouterr().err
    assert dmeta("train", *QUICK, "run_dir=run", "resume=true", "steps=3") == 0
    assert json.loads(Path("run/results.json").read_text())["training"]["steps"] == 3
    assert dmeta("evaluate", "run_dir=run", "runtime=local", "num_tasks=4") == 0
    told = json.loads(Path("run/evaluation.json").read_text())
    assert dmeta("train", *QUICK, "run_dir=run", "resume=true", "steps=3") == 0
    assert json.loads(Path("run/evaluation.json").read_text()) == told, "of the last step still"
    results = json.loads(Path("run/results.json").read_text())
    assert told["test"]["transductive"] == results["test"]["transductive"]
    assert dmeta("train", *QUICK, "run_dir=run", "resume=true", "steps=4") == 0
    assert not Path("run/evaluation.json").exists()
    assert json.loads(Path("run/evaluation-step-00000003.json").read_text()) == told
    state = next(Path("run/checkpoints").glob("step-00000004/state.safetensors"))
    state.write_bytes(state.read_bytes()[:-1])
    assert dmeta("evaluate", "run_dir=run", "runtime=local") == 2
    assert "altered or truncated" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_gradients_tells_what_each_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["bench.inner_steps=[1,2]", "bench.num_tasks=2", "bench.repeats=1", "bench.out=out"]
    assert dmeta("bench", "gradients", *few, "algorithm.inner_lr=0.02") == 0
    out = capsys.readouterr().out
    for words in ("checkpointed", "predicted", "not measured: implicit", "out/gradients.png"):
        assert words in out
    assert max(map(len, out.split("not measured")[0].splitlines())) <= 100
    told = json.loads((tmp_path / "out" / "gradients.json").read_text())
    assert told["settings"]["algorithm"]["inner_lr"] == 0.02
    assert {row["inner_steps"] for row in told["rows"]} == {1, 2}
    assert (tmp_path / "out" / "gradients.png").stat().st_size > 10_000


@pytest.mark.slow
def test_bench_plans_tells_what_each_makes_of_the_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["bench.plans=[loop,loop_channels_last,vmap]", "bench.repeats=1", "bench.out=out"]
    quick = [*few, "compute.plan=vmap", "algorithm.inner_lr=0.02"]
    assert dmeta("bench", "plans", *quick, "bench.num_tasks=[1,3]") == 0
    out = capsys.readouterr().out
    for words in ("tasks/s", "GFLOP/s", "not measured: loop_channels_last: no", "out/plans.png"):
        assert words in out
    assert max(map(len, _table_of(out))) <= 100
    told = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert told["settings"]["algorithm"]["inner_lr"] == 0.02
    assert told["bench"]["num_tasks"] == [1, 3]
    rows = [(row["num_tasks"], row["plan"]) for row in told["rows"]]
    assert rows == [(1, "loop"), (1, "vmap"), (3, "loop"), (3, "vmap")]
    for row in told["rows"]:
        per_second = row["num_tasks"] / row["median_seconds"]
        assert row["tasks_per_second"] == pytest.approx(per_second)
    assert (tmp_path / "out" / "plans.png").stat().st_size > 10_000
    assert dmeta("bench", "plans", *quick, "compute.block_size=4") == 0
    assert "one block of 4 tasks" in capsys.readouterr().out


def test_bench_methods_divides_by_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["bench.methods=[protonet,simpleshot]", "bench.repeats=1", "bench.out=out"]
    glyphs = ["task=glyphs", "task.num_classes=30", "model.filters=4", "meta_batch_size=2"]
    words = [*few, *glyphs, "bench.reference=fomaml"]
    assert dmeta("bench", "methods", *words, "algorithm.inner_lr=0.02") == 0
    assert "not measured: protonet: unknown key 'algorithm.inner_lr'" in capsys.readouterr().out
    assert dmeta("bench", "methods", *words) == 0
    out = capsys.readouterr().out
    for text in ("x: divided by that of fomaml", "out/methods.png"):
        assert text in out
    assert max(map(len, _table_of(out))) <= 100
    told = json.loads((tmp_path / "out" / "methods.json").read_text())
    rows = {row["method"]: row for row in told["rows"]}
    assert list(rows) == ["fomaml", "protonet", "simpleshot"]
    assert rows["fomaml"]["times"] == rows["fomaml"]["memory"] == 1
    assert rows["fomaml"]["gradient"] == "first_order"
    assert (rows["protonet"]["examples"], rows["simpleshot"]["examples"]) == (30, 16)
    first, other = (rows[name] for name in ("fomaml", "protonet"))
    assert other["times"] == pytest.approx(other["seconds_per_task"] / first["seconds_per_task"])
    assert other["memory"] > 0
    assert (tmp_path / "out" / "methods.png").stat().st_size > 10_000
    assert dmeta("bench", "methods", *few, "bench.reference=protonet") == 2  # on the sinusoid


def test_bench_accuracy_trains_every_method_for_the_same_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glyphs = ["task=glyphs", "task.num_classes=30", "model.filters=4", "meta_batch_size=2"]
    few = ["eval.num_tasks=4", "eval.val_tasks=2", "bench.seconds=0.1", "bench.timed_seconds=0.01"]
    words = [*glyphs, *few, "bench.points=2", "bench.out=out"]
    out = tmp_path / "out"
    # As if they had been timed: 5 steps and 1 step.
    out.mkdir()
    (out / "step_seconds.json").write_text('{"protonet": 0.0199, "simpleshot": 7}')
    assert dmeta("bench", "accuracy", *words, "bench.methods=[protonet]") == 0
    first = json.loads((out / "accuracy.json").read_text())["rows"]
    assert dmeta("bench", "accuracy", *words, "bench.methods=[simpleshot,protonet,fomaml]") == 0
    told = capsys.readouterr().out
    for text in ("5 ways, 1 shot, 0.1 s of training each", "out/accuracy.png"):
        assert text in told
    assert told.count("training protonet") == 1  # it is in the table
    assert max(map(len, _table_of(told))) <= 100
    rows = {row["method"]: row for row in json.loads((out / "accuracy.json").read_text())["rows"]}
    assert list(rows) == ["protonet", "simpleshot", "fomaml"]
    assert rows["protonet"] == first[0]
    assert (rows["protonet"]["steps"], rows["simpleshot"]["steps"]) == (5, 1)
    assert [at for at, _, _ in rows["protonet"]["curve"]] == pytest.approx([0.06, 0.1])
    assert rows["fomaml"]["steps"] >= 1
    assert (out / "accuracy.png").stat().st_size > 10_000
    again = train([*rows["protonet"]["overrides"], "run_dir=again"])
    assert again.meta_params_sha256 == rows["protonet"]["meta_params_sha256"]
    assert again.summary["test"]["transductive"]["mean"][-1] == rows["protonet"]["transductive"][0]
    assert dmeta("bench", "accuracy", *words, "bench.seconds=1") == 2
    assert "bench.out must be a folder of the same comparison" in capsys.readouterr().err
    assert dmeta("bench", "accuracy", "bench.methods=[protonet]", "bench.out=new") == 2
    assert "no method could be trained: algorithm=protonet" in capsys.readouterr().err


def test_bench_profile_tells_where_a_steps_time_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["bench.steps=2", "bench.warmup=1", "bench.out=out"]
    assert dmeta("bench", "profile", *few, "runtime=local", "compute.plan=vmap") == 0
    out = capsys.readouterr().out
    for words in ("mathematics", "local, 1 worker", "everything around", "out/profile.png"):
        assert words in out
    assert max(map(len, _table_of(out))) <= 100
    told = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert told["bench"] == {"steps": 2, "warmup": 1, "out": "out"}
    assert sum(told["parts"].values()) == pytest.approx(told["seconds"])
    assert (tmp_path / "out" / "profile.png").stat().st_size > 10_000


def test_bench_says_what_it_can_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("bench") == 2
    told = capsys.readouterr().out
    for what in ("accuracy", "gradients", "methods", "plans", "profile"):
        assert what in told
    for words in (["--cfg", "job", "task=glyphs"], ["task=glyphs", "--cfg", "job"]):
        assert dmeta("bench", "gradients", *words) == 0
        assert "name: conv4_strided" in capsys.readouterr().out
    assert dmeta("bench", "gradients", "--help") == 0
    assert "inner_steps" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_gives_every_job_its_own_folder(tmp_path: Path) -> None:
    assert dmeta("train", "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=sweep") == 0
    hashes = {
        json.loads((tmp_path / "sweep" / job / "results.json").read_text())["meta_params_sha256"]
        for job in ("0", "1")
    }
    assert len(hashes) == 2


@pytest.mark.slow
def test_hydras_own_flags_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("train", "--cfg", "job", "algorithm=fomaml") == 0
    assert "name: first_order" in capsys.readouterr().out
    assert dmeta("train", "--help") == 0
    assert "miniimagenet" in capsys.readouterr().out


def test_list_names_everything_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("list") == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in ("maml", "fomaml", "reptile", "omniglot", "glyphs", "conv4_strided", "1703.03400"):
        assert name in out
    assert "omniglot_5w1s_maml" in out


def test_data_tells_what_is_missing_and_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("data") == 0
    out = capsys.readouterr().out
    assert "missing" in out
    assert "images_background" in out
    assert "task.download=true" in out.replace("\n", " ")


def test_no_verb_tells_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta() == 2
    assert "evaluate" in capsys.readouterr().out


def test_the_version_names_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmeta("--version") == 0
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(told) == ["dmeta", "torch", "torchvision", "ray", "Python"]
    assert torch.__version__.startswith(told["torch"])
    assert told["Python"] == platform.python_version()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_as_a_shell_expects(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(main, "_run", lambda verb, rest: os.kill(os.getpid(), number))
    # Who starts programs in the background, a shell say, lets them ignore Ctrl-C.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert dmeta("train") == code
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert capsys.readouterr().err == "dmeta: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_told_to_stop_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(session: Session, *_: object) -> None:
        session.run_dir.mkdir()
        (session.run_dir / "config.json").touch()
        raise Stopped(7, signal.SIGTERM)

    monkeypatch.setattr("dmeta.cli.train.run_session", stop)
    assert dmeta("train", *QUICK, "run_dir=run") == 143
    told = capsys.readouterr().err
    assert "stopped after step 7, which is kept" in told
    assert "continue with: dmeta train run_dir=run resume=true" in told


@pytest.mark.slow
def test_a_search_interrupted_before_its_first_trial_has_nothing_to_go_on_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmeta.cli.tune.run_search", stop)
    command = ("tune", "task=sinusoid", "outer.lr=0.1,0.2", "run_dir=search")
    assert dmeta(*command) == 130
    told = capsys.readouterr().err
    assert told == "dmeta: interrupted; nothing was written; begin it again with the same command\n"
    Path("search").mkdir()
    Path("search/search.json").write_text("{}")
    assert dmeta(*command) == 130
    assert "continue with: dmeta tune run_dir=search resume=true" in capsys.readouterr().err


def test_a_training_interrupted_before_its_first_step_has_nothing_to_go_on_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmeta.cli.preparation.with_selection", stop)
        assert dmeta("train", *QUICK, "run_dir=run") == 130
    told = capsys.readouterr().err
    assert told == "dmeta: interrupted; nothing was written; begin it again with the same command\n"
    assert dmeta("train", *QUICK, "run_dir=run") == 0
