"""`dmeta submit` as far as the cluster: checked, refused, and what would be sent. Needs no Ray."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import dmeta
from dmeta.cli import main, submit
from dmeta.cli.jobs.upload import shipment_of
from dmeta.runtime.cluster import dashboard, jobs
from dmeta.runtime.cluster.jobs import Ending
from tests.cli.refusal import nothing_starts, refusal  # noqa: F401

pytestmark = pytest.mark.usefixtures("nothing_starts", "environment")

URL = "http://head:8265"
TRAIN = "submit train run_dir=/shared/run "
EXPERIMENT = "# @package _global_\nmeta_batch_size: 6\n"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs.Jobs, "__init__", lambda *_, **__: pytest.fail("asked the cluster"))


class FakeJobs:
    """A cluster whose jobs end as they are told to; keeps what it was given."""

    url = URL

    def __init__(self, *endings: Ending) -> None:
        self.endings = list(endings)
        self.submitted: list[tuple[str, dict[str, Any]]] = []
        self.files: list[dict[str, str]] = []

    def submit(self, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        self.submitted.append((entrypoint, runtime_env))
        folder = Path(runtime_env.get("working_dir", "nothing"))
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.files.append({str(path.relative_to(folder)): path.read_text() for path in paths})
        return f"job{len(self.submitted)}"

    def follow(self, job: str, write: Any) -> Ending:
        if not self.endings:
            raise KeyboardInterrupt
        write(f"{job} says\n")
        return self.endings.pop(0)


def run(line: str, cluster: FakeJobs, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of `dmeta LINE`."""
    monkeypatch.setattr(submit, "_jobs", lambda *_, **__: cluster)
    try:
        main.main(shlex.split(line))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def dry(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The words of the command that `dmeta LINE --dry-run` prints, and the lines after it."""
    main.main([*shlex.split(line), "--dry-run"])
    command, _, rest = capsys.readouterr().out.partition("\n")
    return shlex.split(command), rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "submit tran",
            r"train, tune, evaluate, attach or stop, got 'tran' \(did you mean 'train'",
        ),
        (TRAIN + "stepz=3", r"unknown key 'stepz' \(did you mean 'steps'"),
        (TRAIN + "steps=many", r"steps must be a whole number"),
        (TRAIN + "algorithm=mamll", r"algorithm must be one of .*did you mean 'maml'"),
        (TRAIN + "algorithm.name=mamll", r"algorithm must be one of .*did you mean 'maml'"),
        (TRAIN + "algorithm.inner_lr=x", r"algorithm.inner_lr must be"),
        (TRAIN + "task=omniglot task.split=random", r"task.split must be finn or vinyals"),
        (TRAIN + "task=omniglot +model.deep=3", r"unknown key 'model.deep'"),
        (TRAIN + "task=omniglot +gradient.x=3", r"unknown key 'gradient.x'"),
        (TRAIN + "task.ways=2", r"ways must be 1 for the sinusoid"),
        (TRAIN + "experiment=no.yaml", r"experiment must be a preset's name or a YAML file"),
        (TRAIN + "submit.adress=x", r"unknown key 'submit.adress' \(did you mean 'submit.addr"),
        (TRAIN + "submit.retries=-1", r"submit.retries must be >= 0, got -1; raise it"),
        (TRAIN + "submit.retries=1 submit.wait=false", r"must be 0 with submit.wait=false"),
        (TRAIN + "submit.wait=maybe", r"submit.wait must be true or false"),
        (TRAIN + "submit.pip=torch", r"submit.pip must be a list such as"),
        (TRAIN + "submit.image=x submit.code=true", r"image must be alone.*got submit.code"),
        (TRAIN + "submit.image=x submit.pip=auto", r"image must be alone.*got submit.pip"),
        (TRAIN + "submit.env={RAY_AUTH_TOKEN:x}", r"must hold no secret.*got RAY_AUTH_TOKEN;"),
        (TRAIN + "runtime.address=h:1", r"runtime.address must be auto or null.*got h:1; leave"),
        (TRAIN + "-m seed=0,1", r"takes key=value, --config-dir and --dry-run, got -m; leave"),
        (TRAIN + "hydra.searchpath=[file:///x]", r"must be named by --config-dir"),
        ("submit train", r"run_dir must be an absolute path .*got nothing; give one such as"),
        ("submit train run_dir=run", r"run_dir must be an absolute path .*got run; give one"),
        (
            TRAIN + "checkpoint.location=kept",
            r"checkpoint.location must be an absolute .*got kept;",
        ),
        ("submit tune run_dir=/x", r"a search must have a space, got none"),
        ("submit tune run_dir=/x steps=4,6 eval.every=2", r"steps must be the same in all trials"),
        (
            "submit tune run_dir=/x search/space=nope",
            r"search/space must be one of learning_rates, ",
        ),
        (
            "submit tune run_dir=/x steps=9 eval.every=9 'outer.lr=1,-1'",
            r"outer.lr must be > 0.*at",
        ),
        ("submit tune run_dir=/x steps=9 eval.every=9 outer.r=1,2", r"did you mean 'outer.lr'"),
        ("submit evaluate", r"run_dir must be given, got nothing"),
        ("submit evaluate run_dir=/x num_tasks=1", r"num_tasks must be >= 2"),
        ("submit attach", r"takes one JOB and submit.address=..., got nothing; give"),
        ("submit stop a b", r"takes one JOB and submit.address=..., got a b; give"),
    ],
)
def test_wrong_input_is_refused_before_the_cluster_is_asked(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(words, refusal(line, capsys), re.DOTALL)


def test_files_do_not_fit_into_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").write_text(EXPERIMENT)
    told = refusal(TRAIN + "submit.image=x experiment=my.yaml", capsys)
    assert re.search(r"image must be alone.*got my.yaml besides; put it into the image", told)


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", ["/shared/run", "of-the-cluster://run"])
@pytest.mark.parametrize("asked", ["train resume=true", "tune resume=true", "tune resume=auto"])
def test_a_run_to_go_on_with_need_not_be_here(
    asked: str, run_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, resume = asked.split()
    words, _ = dry(f"submit {verb} run_dir={run_dir} {resume}", capsys)
    assert words[-3:] == [verb, f"run_dir={run_dir}", resume]


def test_a_dry_run_prints_rays_command(capsys: pytest.CaptureFixture[str]) -> None:
    line = TRAIN + f"submit.address={URL} submit.env={{A:1}} 'outer.lr=0.5' submit.wait=false"
    words, rest = dry(line, capsys)
    env = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "A": "1"}}
    assert words[:5] == ["ray", "job", "submit", "--address", URL]
    assert json.loads(words[words.index("--runtime-env-json") + 1]) == env
    assert "--no-wait" in words
    assert words[words.index("--") + 1 :] == [
        "dmeta",
        "train",
        "run_dir=/shared/run",
        "outer.lr=0.5",
    ]
    assert rest == "nothing is uploaded\n"


def test_a_dry_run_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "submit train run_dir=s3://anna:hush@store/run?secret_key=hush&region=x "
        "submit.address=http://anna:hush@head:8265"
    )
    words, rest = dry(line.replace("&", "'&'"), capsys)
    assert "run_dir=s3://***@store/run?secret_key=***&region=x" in words
    assert "http://***@head:8265" in words
    assert "hush" not in rest
    assert rest.splitlines()[0] == "passwords and keys in addresses are shown as ***"


def test_a_dry_run_lists_the_files_and_touches_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("my.yaml").write_text(EXPERIMENT)
    words, rest = dry(TRAIN + "experiment=my.yaml submit.code=true", capsys)
    assert words[words.index("--working-dir") + 1] == "FOLDER"
    assert words[words.index("--") + 1 : words.index("--") + 5] == [
        "python",
        "-m",
        "dmeta",
        "train",
    ]
    assert f"my.yaml  {len(EXPERIMENT)} B  (my.yaml)" in rest
    assert re.search(r"dmeta/  .*[KM]iB  \(\d+ files of dmeta", rest)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_the_address_is_rays_own_where_none_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "http://127.0.0.1:8265" in dry(TRAIN, capsys)[0]
    monkeypatch.setenv("RAY_ADDRESS", "http://second")
    assert "http://second" in dry(TRAIN, capsys)[0]
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://first")
    assert "http://first" in dry(TRAIN, capsys)[0]
    assert dashboard.named_address("http://said") == "http://said"


@pytest.mark.slow
def test_an_image_and_packages_are_rays_business(capsys: pytest.CaptureFixture[str]) -> None:
    words, _ = dry(TRAIN + "submit.image=dmeta:gpu", capsys)
    env = json.loads(words[words.index("--runtime-env-json") + 1])
    assert env["image_uri"] == "dmeta:gpu"
    words, _ = dry(TRAIN + "submit.pip=[optuna]", capsys)
    assert json.loads(words[words.index("--runtime-env-json") + 1])["pip"] == ["optuna"]
    words, _ = dry(TRAIN + "submit.pip=auto", capsys)
    needed = json.loads(words[words.index("--runtime-env-json") + 1])["pip"]
    names = {re.split(r"[^\w-]", each)[0] for each in needed}
    assert "hydra-core" in names
    assert not {"torch", "torchvision", "ray"} & names


def test_exactly_the_files_that_are_named_are_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "search" / "space").mkdir(parents=True)
    (tmp_path / "mine" / "search" / "space" / "rates.yaml").write_text("outer.lr: [0.1, 0.2]\n")
    for beside in ("mine/token", "mine/.git/x.yaml", "mine/runs/r/best.yaml", "beside.yaml"):
        (tmp_path / beside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / beside).write_text("secret: 1\n")
    Path("my.yaml").write_text(EXPERIMENT)
    cluster = FakeJobs(Ending("succeeded", 0))
    line = (
        "submit tune experiment=my.yaml --config-dir mine search/space=rates steps=4 eval.every=2 "
        f"joint_baseline=false run_dir={tmp_path}/run"
    )
    assert run(line, cluster, monkeypatch) == 0
    assert cluster.files == [
        {"my.yaml": EXPERIMENT, "configs/search/space/rates.yaml": "outer.lr: [0.1, 0.2]\n"}
    ]
    [(entrypoint, env)] = cluster.submitted
    assert shlex.split(entrypoint)[:5] == [
        "dmeta",
        "tune",
        "--config-dir",
        "configs",
        "experiment=my.yaml",
    ]
    assert not Path(env["working_dir"]).exists()
    assert not (tmp_path / "run").exists()
    assert "uploading 60 B: configs/search/space/rates.yaml" in capsys.readouterr().out


def test_too_much_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (11 * 2**20))
    with pytest.raises(ValueError, match=r"must hold settings of at most 10.0 MiB, got .*11.0 MiB"):
        shipment_of([f"--config-dir={tmp_path}"], code=False)


def test_the_shipped_program_has_its_settings_inside() -> None:
    with shipment_of([], code=True).staged() as folder:
        package = Path(dmeta.__file__).parent
        for pattern in ("*.py", "*.html", "*.txt"):  # pages of reports, templates of `dmeta new`
            shipped = {p.relative_to(folder / "dmeta") for p in folder.rglob(pattern)}
            assert shipped == {p.relative_to(package) for p in package.rglob(pattern)} != set()
        assert (folder / "dmeta" / "configs" / "search" / "asha.yaml").is_file()
        assert not list(folder.rglob("*.pyc"))
        assert folder.stat().st_mode & 0o077 == 0


def test_a_job_that_fails_is_submitted_anew_and_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = FakeJobs(Ending("failed", 137), Ending("failed", 1, "lost"), Ending("succeeded", 0))
    assert run(TRAIN + "resume=false submit.retries=3", cluster, monkeypatch) == 0
    first, *others = [shlex.split(entrypoint)[2:] for entrypoint, _ in cluster.submitted]
    assert first == ["run_dir=/shared/run", "resume=false"]
    assert others == [["run_dir=/shared/run", "resume=auto"]] * 2
    out = capsys.readouterr().out
    assert "job1 says\njob job1 failed, exit code 137\n" in out
    assert "attempt 2 of 4" in out
    assert "lost" in out


@pytest.mark.parametrize(
    "ending", [Ending("failed", 2), Ending("stopped", 143), Ending("succeeded", 0)]
)
def test_other_endings_are_final(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeJobs(ending)
    assert run(TRAIN + "submit.retries=3", cluster, monkeypatch) == ending.exit_code
    assert len(cluster.submitted) == 1


def test_retries_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeJobs(*[Ending("failed", 1)] * 5)
    assert run("submit evaluate run_dir=/x submit.retries=2", cluster, monkeypatch) == 1
    assert [line for line, _ in cluster.submitted] == ["dmeta evaluate run_dir=/x"] * 3


def test_a_resume_that_must_be_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeJobs(Ending("failed", 1), Ending("succeeded", 0))
    assert run(TRAIN + "resume=true submit.retries=1", cluster, monkeypatch) == 0
    assert cluster.submitted[0] == cluster.submitted[1]


def test_an_interrupt_detaches_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = TRAIN + f"submit.address={URL} submit.retries=1"
    assert run(line, FakeJobs(), monkeypatch) == 130
    told = capsys.readouterr().err
    assert (
        f"the job continues; follow it with: dmeta submit attach job1 submit.address={URL}" in told
    )
    assert f"stop it with: dmeta submit stop job1 submit.address={URL}" in told
    assert "it is not submitted again" in told


def test_a_job_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeJobs()
    assert run(TRAIN + "submit.wait=false", cluster, monkeypatch) == 0
    assert len(cluster.submitted) == 1


def test_a_cluster_without_the_program_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, FakeJobs(Ending("failed", 127)), monkeypatch) == 127
    assert "add submit.code=true" in capsys.readouterr().out


def test_help_and_settings_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main(["submit", "--help"])
    out = capsys.readouterr().out
    assert "dmeta submit attach JOB" in out
    assert "retries: 0" in out
    main.main(["submit", "train", "--cfg", "job", "algorithm=fomaml"])
    assert "name: first_order" in capsys.readouterr().out
    assert run("--help", FakeJobs(), monkeypatch) == 0
    assert "\n  submit " in capsys.readouterr().out
