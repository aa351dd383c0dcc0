from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize


@given(seed=st.integers(0, 2**32), shots=st.integers(2, 30))
def test_support_and_query_lie_on_one_wave_within_the_papers_ranges(seed: int, shots: int) -> None:
    task = Sinusoid().draw("train", EpisodeSize(1, shots, 40), np.random.default_rng(seed))
    x = np.concatenate([task.support_x, task.query_x])[:, 0].astype(np.float64)
    y = np.concatenate([task.support_y, task.query_y])[:, 0].astype(np.float64)
    # a*sin(x - p) = (a cos p) sin x - (a sin p) cos x: linear in two unknowns.
    basis = np.stack([np.sin(x), -np.cos(x)], axis=1)
    (a_cos, a_sin), *_ = np.linalg.lstsq(basis, y, rcond=None)
    assert np.abs(basis @ [a_cos, a_sin] - y).max() < 1e-5
    assert np.abs(x).max() <= 5.0
    assert 0.1 - 1e-5 <= math.hypot(a_cos, a_sin) <= 5.0 + 1e-5
    assert a_sin >= -1e-5  # a phase in [0, pi]


def test_inputs_and_phases_fill_their_intervals() -> None:
    rng = np.random.default_rng(0)
    tasks = [Sinusoid().draw("test", EpisodeSize(1, 10, 10), rng) for _ in range(300)]
    x = np.concatenate([t.query_x for t in tasks])
    assert x.min() < -4.9
    assert x.max() > 4.9
    assert max(np.abs(t.query_y).max() for t in tasks) > 4.5


def test_frequencies_fill_their_interval_and_leave_the_rest_as_it_was() -> None:
    plain, varied = Sinusoid(), Sinusoid(frequency_min=0.8, frequency_max=1.2)
    found = []
    for seed in range(200):
        task, same = (
            source.draw("train", EpisodeSize(1, 10, 10), np.random.default_rng(seed))
            for source in (varied, plain)
        )
        assert np.array_equal(task.support_x, same.support_x)
        x, y = task.query_x[:, 0].astype(np.float64), task.query_y[:, 0].astype(np.float64)
        candidates = np.linspace(0.8, 1.2, 81)
        errors = []
        for w in candidates:
            waves = np.stack([np.sin(w * x), np.cos(w * x)], axis=1)
            errors.append(np.linalg.lstsq(waves, y, rcond=None)[1].sum())
        found.append(candidates[int(np.argmin(errors))])
    assert min(found) < 0.82
    assert max(found) > 1.18
    assert 0.98 < np.mean(found) < 1.02


def test_more_than_one_way_is_refused_with_the_key_to_change() -> None:
    with pytest.raises(ValueError, match=r"ways must be 1 .*got 5; set task\.ways to 1"):
        Sinusoid().check("test", EpisodeSize(5, 1, 1))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"amplitude_min": 6.0}, "task.amplitude_min"),
        ({"x_max": math.inf}, "task.x_max"),
        ({"phase_max": -1.0}, "task.phase_max"),
        ({"frequency_min": 0.0}, "task.frequency_min"),
        ({"frequency_min": 1.1}, "task.frequency_max"),
        ({"frequency_max": math.inf}, "task.frequency_max"),
    ],
)
def test_impossible_ranges_are_refused(options: dict[str, float], key: str) -> None:
    with pytest.raises(ValueError, match=rf"must be .*got .*{key}"):
        Sinusoid(**options)
