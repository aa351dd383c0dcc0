"""What the server takes: every combination, in numbers that are of what was done."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dmeta.bench.idle import IdleWorkers, SumServers
from dmeta.bench.scale import Capacity, ScaleOptions, StepRates, predicted
from dmeta.cli.main import main
from dmeta.runtime.blocks import blocks_of


@pytest.mark.slow
def test_every_combination_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench.workers=[2]", "bench.megabytes=[0.1]", "bench.seconds=0.1"]
    main(["bench", "scale", *words, f"bench.out={tmp_path}"])
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert [(row["num_workers"], row["num_bytes"], row["way"]) for row in rows] == [
        (2, 100_000, way) for way in ("flat", "tree", "sharded")
    ]
    for row in rows:
        assert row["num_steps"] >= 3
        assert row["seconds"] >= 0.1
        assert row["model_seconds"] > 0
        assert row["steps_per_second"] == row["num_steps"] / row["seconds"]
    assert (tmp_path / "scale.png").stat().st_size > 10_000
    assert "model steps/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"workers": ()}, "at least one"),
        ({"workers": (0, 1)}, "bench.workers must be >= 1, got 0"),
        ({"megabytes": (1.0, 0.0)}, "bench.megabytes must be > 0, got 0.0; raise it"),
        ({"seconds": 0.0}, "bench.seconds must be > 0, got 0.0; raise it"),
    ],
)
def test_what_can_not_be_measured_is_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ScaleOptions(**changes)  # type: ignore[arg-type]


def test_the_model_counts_what_goes_into_sums() -> None:
    rates = StepRates(step_seconds=0.01, bytes_per_second=1e9)
    assert predicted(rates, 64, 1_000_000, "flat") == pytest.approx(0.01 + 0.064)
    assert predicted(rates, 64, 1_000_000, "tree") == pytest.approx(0.015 + 0.016)
    assert predicted(rates, 8, 1_000_000, "tree") == predicted(rates, 8, 1_000_000, "flat")
    assert predicted(rates, 64, 1_000_000, "sharded", 4) == pytest.approx(0.015 + 0.016)


def test_the_model_is_of_the_smallest_and_the_largest_vector() -> None:
    assert StepRates.of({1000: 0.5, 2000: 0.6, 5000: 1.5}) == StepRates(0.5, 4000.0)
    assert StepRates.of({1000: 0.5, 5000: 0.4}) == StepRates(0.5, math.inf)


def test_rates_are_of_steps_and_of_all_gradients() -> None:
    row = Capacity(4, 1000, "flat", 1, 10, 2.0, 0.1)
    assert row.steps_per_second == 5
    assert row.gradient_bytes_per_second == 5 * 4 * 1000


def test_the_server_counts_its_steps() -> None:
    server, worker = SumServers().build(), IdleWorkers().build("cpu")
    for step in range(3):
        blocks = blocks_of("train", step, 2, 1)
        gradients = [worker.gradient(server.vector(), block).gradient for block in blocks]
        for _ in range(2):  # once only
            server.commit(step, [server.gather(gradients, 2)])
    assert SumServers().digest([server.vector()]) == "3.0"
    assert np.array_equal(server.state().arrays["vector"], np.full(1, 3, np.float32))
