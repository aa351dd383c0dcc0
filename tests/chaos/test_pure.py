from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from tests.chaos.effects import Occurrence, longest_pause, lost_steps, rate
from tests.chaos.faults import FAULTS
from tests.chaos.processes import Memory
from tests.chaos.report import Outcome, summary, table, write
from tests.chaos.schedule import Event, mixed, parse, repeated
from tests.chaos.training import SMALL, Said, Seen

OCCURRENCE = Occurrence(
    fault="worker_kill",
    at_s=100.0,
    step=50,
    noticed_after_s=0.5,
    going_on_after_s=1.0,
    longest_pause_s=1.0,
    steps_recomputed=0,
    blocks_recomputed=2,
    num_resumes=0,
    num_hangs=0,
    notes=[],
    said=[],
)
OUTCOME = Outcome(
    title="worker_kill",
    recipe=SMALL,
    occurrences=[OCCURRENCE],
    notes=[],
    num_resumes=0,
    steps=200,
    digest="ab",
    orphans=[],
    undisturbed_steps_per_s=50.0,
    disturbed_steps_per_s=40.0,
    seconds=30.0,
    memory=[Memory(float(i), {"driver": i * 10**6}) for i in range(1000)],
)


def rows(*points: tuple[float, int]) -> list[Seen]:
    return [Seen(at_s, step, 0, 0) for at_s, step in points]


def last_line(outcome: Outcome) -> str:
    return table([outcome]).splitlines()[-1]


def test_a_seed_gives_the_same_schedule_again_and_another_seed_another() -> None:
    weights = {"worker_kill": 3.0, "server_kill": 1.0}
    first = mixed(weights, seed=0, first_s=10, every_s=15, until_s=1000)
    assert first == mixed(dict(reversed(weights.items())), 0, 10, 15, 1000)
    assert first != mixed(weights, 1, 10, 15, 1000)


def test_a_mixed_schedule_is_as_dense_and_as_weighted_as_asked() -> None:
    events = mixed({"a": 9.0, "b": 1.0}, seed=0, first_s=10, every_s=15, until_s=15_010)
    times = [event.at_s or 0.0 for event in events]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 10
    assert times[-1] < 15_010
    assert 7.4 < min(gaps) < max(gaps) < 22.6
    assert 950 < len(events) < 1050
    assert 850 < sum(event.fault == "a" for event in events) < 950


def test_a_repeated_fault_comes_until_the_end_and_at_least_once() -> None:
    assert [event.at_s for event in repeated("x", 5, 3, 12)] == [5, 8, 11]
    assert [event.at_s for event in repeated("x", 5, 30, 12)] == [5]
    assert [event.at_s for event in repeated("x", 5, None, 12)] == [5]


def test_events_are_read_as_steps_or_seconds() -> None:
    assert parse(["a@60", "b@2.5s"]) == (Event("a", at_step=60), Event("b", at_s=2.5))
    assert Event("a", at_step=60).is_due(60, 0)
    assert not Event("a", at_step=60).is_due(59, 1e9)
    assert Event("b", at_s=2.5).is_due(0, 2.5)
    assert not Event("b", at_s=2.5).is_due(10**9, 2.4)


@pytest.mark.parametrize("word", ["a", "a@", "a@1.5", "a@-3", "@3", "a@3m"])
def test_an_event_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="must be FAULT@STEP"):
        parse([word])


def test_every_fault_can_be_applied_or_is_a_condition() -> None:
    for fault in FAULTS.values():
        has_conditions = fault.conditions != FAULTS["worker_kill"].conditions
        assert fault.apply or has_conditions, fault.name
        assert fault.apply or not fault.weight, fault.name


def test_steps_a_second_count_what_was_taken_again_once() -> None:
    seen = rows((0, 10), (10, 110), (20, 60), (30, 210))
    assert rate(seen, 0, 30) == pytest.approx(200 / 30)
    assert rate(seen, 5, 30) == pytest.approx(200 / 25)
    assert rate(seen, 11, 29) is None  # one line only


def test_steps_that_were_seen_and_not_kept_are_lost() -> None:
    seen = rows((0, 10), (1, 17), (8, 11))
    assert lost_steps(seen, [Said(5.5, "going on after step 10/100")], [5.0]) == 7
    assert lost_steps(seen, [], [5.0]) == 17
    assert lost_steps(seen, [], []) == 0


def test_the_longest_pause_begins_at_the_fault() -> None:
    assert longest_pause(rows((13, 1), (14, 2)), 10) == 3
    assert longest_pause([], 10) == 0


def test_only_lines_that_are_no_routine_are_a_notice() -> None:
    routine = [
        "step 1/300  mse 3.56  650 tasks/s",
        "writing to /tmp/r",
        "(raylet) died",
        "    - objects spillable: 1",
        "\t[x]",
        "",
    ]
    routine += ["maml on sinusoid with mlp (1,761 meta-parameters), 25 tasks a step"]
    assert not [text for text in routine if Said(0, text).is_notice]
    assert Said(0, "worker 1 lost its block (ActorDiedError: ...)").is_notice
    assert Said(0, "dmeta: the parameter server must answer").is_notice


def test_the_table_has_medians_worst_cases_and_what_was_not_seen() -> None:
    slower = dataclasses.replace(OCCURRENCE, noticed_after_s=None, going_on_after_s=3.0)
    outcome = dataclasses.replace(OUTCOME, occurrences=[OCCURRENCE, slower], clean_digest="ab")
    assert last_line(outcome) == (
        "| worker_kill | 2 | 0.5 s, 1 times not noticed | 2.0 s (max 3.0 s) | 0 | yes |"
    )


def test_the_table_tells_what_hung_and_was_resumed() -> None:
    hung = dataclasses.replace(OCCURRENCE, num_hangs=1, num_resumes=1, steps_recomputed=7)
    outcome = dataclasses.replace(OUTCOME, occurrences=[hung], clean_digest="ab")
    assert last_line(outcome) == (
        "| worker_kill | 1 | 0.5 s | 1.0 s, killed 1 times as it hung, resumed 1 times | 7 | yes |"
    )


def test_the_table_tells_other_bits_from_no_result() -> None:
    compared = dataclasses.replace(OUTCOME, clean_digest="cd")
    assert compared.same_bits is False
    assert last_line(compared).endswith("| NO |")
    ended = dataclasses.replace(OUTCOME, digest=None, clean_digest="ab")
    assert ended.same_bits is None
    assert last_line(ended).endswith("| no result |")
    assert last_line(dataclasses.replace(OUTCOME, clean_digest="ab")).endswith("| yes |")


def test_bits_that_were_compared_with_nothing_are_not_the_same() -> None:
    assert OUTCOME.clean_digest is None
    assert OUTCOME.same_bits is False


def test_the_share_of_the_throughput_is_of_the_undisturbed_part() -> None:
    assert OUTCOME.throughput_kept == 0.8
    assert dataclasses.replace(OUTCOME, undisturbed_steps_per_s=None).throughput_kept is None
    assert "80.0% kept" in summary(OUTCOME)


def test_the_file_has_everything_and_a_thinned_memory_curve(tmp_path: Path) -> None:
    write([OUTCOME], tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    [plain] = content["outcomes"]
    assert plain["occurrences"][0]["fault"] == "worker_kill"
    assert plain["throughput_kept"] == 0.8
    assert 100 < len(plain["memory"]) <= 200
    assert content["table"] == table([OUTCOME])
