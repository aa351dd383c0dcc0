"""What every room's tests share: one thread, small runs, and the data root if there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib as mpl
import pytest
import torch
from torch import Tensor, nn
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from dmeta.cli.settings.hydra_app import compose
from dmeta.quoting import as_override
from dmeta.reports.run_report import draw_run
from dmeta.training.config import RunConfig, run_config

ROOMS = ("runtime", "search")
"""Of each, the tests share one cluster."""

CLUSTERS = (
    "chaos/test_chaos.py",
    "cli/test_submit_cluster.py",
    "cluster/test_slurm.py",
    "bench/test_scale.py",
)
"""Files whose tests start clusters for minutes: in turn, for many at once are slower than that."""

LONGEST = (
    *ROOMS,
    CLUSTERS[0],
    "training/test_run.py",
    "cli/test_refused.py",
    "bilevel/test_compiled.py",
    "models/test_foreign_models.py",
    "training/autotune/test_memory_prediction.py",
    "cli/test_python.py",
)
"""Groups with more than half a minute of tests that are slow: they begin, so that none is last."""

# The same examples everywhere, and no test depends on the clock.
hypothesis.settings.register_profile(
    "dmeta",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dmeta")

# Ray's workers step back behind everything else (15): beside other tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

mpl.use("Agg")
torch.set_num_threads(1)

TINY = {
    "steps": 6,
    "meta_batch_size": 5,
    "log_every": 2,
    "joint_baseline": False,
    "eval.every": 3,
    "eval.val_tasks": 4,
    "eval.num_tasks": 6,
    "checkpoint.every": 2,
    "runtime": "local",
    "compute.block_size": 2,
    "compute.plan": "vmap",
}


class Branching(nn.Module):
    """Looks at the values of its input: it cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out if out.sum() > 0 else -out


def tiny_config(run_dir: Path | str, **changes: Any) -> RunConfig:
    """Settings of a run of a second; keys with dots are given as ``a__b``."""
    settings = TINY | {"run_dir": str(run_dir)}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return run_config(compose("train", [as_override(k, v) for k, v in settings.items()]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest groups, so that none is left alone at the end."""
    ranks = {group: rank for rank, group in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(group_of(item.nodeid), len(LONGEST)))


def group_of(nodeid: str) -> str:
    """Tests of a group run in one process: those of a file or room share what is dear to set up."""
    path = nodeid.partition("::")[0].removeprefix("tests/")
    room = path.partition("/")[0]
    if room in ROOMS:
        return room
    return CLUSTERS[0] if path in CLUSTERS else path


class _ByGroup(LoadScopeScheduling):
    """xdist's own marks for groups (3.8.0) do nothing with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How tests are handed to several processes."""
    return _ByGroup(config, log)


@pytest.fixture(scope="session", autouse=True)
def _no_figures() -> Iterator[None]:
    """Runs draw none: that takes longer than a small run, and an error of it would be a warning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmeta.cli.train.draw_run", lambda *_: None)
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their figures."""
    monkeypatch.setattr("dmeta.cli.train.draw_run", draw_run)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DMETA_DATA", beside))
    if not (root / "omniglot").is_dir():
        pytest.skip(f"no data sets under {root} (set DMETA_DATA)")
    return root
