"""What a GPU's worker warns of is in its reports, once each; torch's own words on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dmeta
from dmeta.runtime.blocks import blocks_of
from dmeta.training.devices import gpu_watch
from dmeta.training.devices.gpu_watch import MEMORY_WAS_SHORT, GpuWatch
from dmeta.training.setup import prepare
from dmeta.training.work import worker
from tests.conftest import TINY, tiny_config

PUT = "put_ does not have a deterministic implementation"


@pytest.fixture(autouse=True)
def _warned_only() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: None
        yield
    torch.use_deterministic_algorithms(False)


def put() -> None:
    torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]))


def test_what_has_no_order_is_noted_once_and_still_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(gpu_watch, "_num_failures", lambda: 0)
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_, **__: shown.append(str(text)))
    watch, show = GpuWatch(on_gpu=True), warnings.showwarning
    for _ in range(2):
        with watch.watching():
            put()
            warnings.warn("something else", stacklevel=1)
    assert watch.warnings == (PUT,)
    assert [text.startswith(PUT) for text in shown] == [True, False] * 2
    assert warnings.showwarning is show


def test_memory_that_torch_could_not_get_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 3, 4, 4])  # three were before
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": next(counts)})
    watch = GpuWatch(on_gpu=True)
    seen = []
    for _ in range(3):
        with watch.watching():
            pass
        seen.append(watch.warnings)
    assert seen == [(), (MEMORY_WAS_SHORT,), (MEMORY_WAS_SHORT,)]


def test_on_a_cpu_nothing_is_watched() -> None:
    watch = GpuWatch(on_gpu=False)
    with watch.watching():
        put()
    assert watch.warnings == ()


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process think that they have a GPU, and draw in no certain order."""
    monkeypatch.setattr(gpu_watch, "_num_failures", lambda: 0)
    monkeypatch.setattr(worker, "GpuWatch", lambda _: GpuWatch(on_gpu=True))
    draw = worker.TaskSupply.draw

    def drawn(self: Any, *given: Any) -> Any:
        put()
        return draw(self, *given)

    monkeypatch.setattr(worker.TaskSupply, "draw", drawn)


@pytest.mark.usefixtures("on_gpu")
def test_reports_have_the_warnings() -> None:
    run = prepare(tiny_config("run"))
    worker = run.work.build("cpu")
    for phase in ("train", "val"):
        block = blocks_of(phase, 0, 2, 2)[0]  # type: ignore[arg-type]
        if phase == "train":
            assert worker.gradient(run.outer.initial, block).report.warnings == (PUT,)
        assert worker.evaluate(run.outer.initial, block).warnings == (PUT,)


@pytest.mark.slow
@pytest.mark.usefixtures("on_gpu")
def test_a_run_writes_them_down_and_logs_each_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = dmeta.train(TINY | {"run_dir": str(tmp_path / "run"), "eval.every": 0})
    assert result.summary["runtime"]["warnings"] == (PUT,)
    assert caplog.messages.count(PUT) == 1
    [hardware] = result.summary["runtime"]["hardware"]
    assert hardware["workers"] == (0,)
    assert hardware["description"].keys() == {"device", "capability", "torch"}
