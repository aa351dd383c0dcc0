"""What every room's tests share: one thread, small runs, and the data root if there is one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib as mpl
import pytest
import torch
from torch import Tensor, nn

from dmeta.commands.hydra_app import as_override, compose
from dmeta.training.config import RunConfig, run_config

TESTS = Path(__file__).parent
RUNTIME = "runtime"  # its tests share one cluster
CLUSTERS = (
    "search/test_search.py",
    "chaos/test_chaos.py",
    "commands/test_submit_cluster.py",
    "cluster/test_slurm.py",
    "bench/test_scale.py",
)
"""Files whose tests start clusters for minutes: in turn, for many at once are slower than that."""

# The same examples everywhere, and no test depends on the clock.
hypothesis.settings.register_profile(
    "dmeta",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dmeta")

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
    "runtime.block_size": 2,
    "runtime.plan": "vmap",
}


class Branching(nn.Module):
    """Looks at the values of its input: it can not be vectorised."""

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


@pytest.hookimpl(tryfirst=True)  # xdist, which is there before, reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, which share what is dear to set up, in one process."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))
    # The longest groups are begun first, so that none is left alone at the end.
    items.sort(key=lambda item: _group_of(item) not in (RUNTIME, CLUSTERS[0]))


def _group_of(item: pytest.Item) -> str:
    path = item.path.relative_to(TESTS)
    if path.parts[0] == RUNTIME:
        return RUNTIME
    return CLUSTERS[0] if path.as_posix() in CLUSTERS else path.as_posix()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DMETA_DATA", beside))
    if not (root / "omniglot").is_dir():
        pytest.skip(f"no data sets under {root} (set DMETA_DATA)")
    return root
