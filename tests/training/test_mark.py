"""The mark that keeps two trainings from one address; time is made here."""

from __future__ import annotations

import logging
import threading
import uuid

import pytest

from dmeta.training import mark
from dmeta.training.mark import BEAT_S, MARK, SILENCE_S, only_one_at
from dmeta.training.mirror import DistantFolder
from dmeta.training.run_lock import RunLocked


@pytest.fixture
def there() -> DistantFolder:
    return DistantFolder(f"memory://{uuid.uuid4().hex}/run")


def never(seconds: float) -> None:
    """Longer than for another one who may begin now."""
    assert seconds < 1, "waited"


def test_the_mark_is_there_as_long_as_the_training_and_gone_after_it(there: DistantFolder) -> None:
    with only_one_at(there, sleep=never):
        assert b'"host"' in (there.read(MARK) or b"")
    assert there.read(MARK) is None
    with pytest.raises(KeyboardInterrupt), only_one_at(there, sleep=never):
        raise KeyboardInterrupt
    assert there.read(MARK) is None


def test_a_training_that_lives_is_left_alone(there: DistantFolder) -> None:
    there.write(MARK, b'{"host": "node7", "beat": 3}')

    def beat(seconds: float) -> None:
        there.write(MARK, b'{"host": "node7", "beat": 4}')

    with (
        pytest.raises(RunLocked, match=r"run_dir must be of one training .* on node7 is training"),
        only_one_at(there, sleep=beat),
    ):
        pass
    assert there.read(MARK) == b'{"host": "node7", "beat": 4}'


def test_of_two_that_begin_together_the_one_whose_mark_stays_goes_on(there: DistantFolder) -> None:
    def begin(seconds: float) -> None:
        there.write(MARK, b'{"host": "node7", "id": "other", "beat": 0}')

    with pytest.raises(RunLocked, match="at the same moment"), only_one_at(there, sleep=begin):
        pass
    assert b"other" in (there.read(MARK) or b"")


@pytest.mark.parametrize("left", [b'{"host": "node7"}', b"torn {", b"[]"])
def test_a_mark_that_does_not_change_is_of_one_that_was_killed(
    there: DistantFolder, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    there.write(MARK, left)
    waited: list[float] = []
    with caplog.at_level(logging.WARNING), only_one_at(there, sleep=waited.append):
        assert there.read(MARK) != left
    assert SILENCE_S <= sum(waited) < SILENCE_S + 1
    assert SILENCE_S > 2 * BEAT_S
    assert "waiting up to 40 s to see whether that still lives" in caplog.text


def test_one_that_ends_meanwhile_is_not_waited_for_any_longer(there: DistantFolder) -> None:
    there.write(MARK, b"{}")
    waited: list[float] = []

    def end(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            there.remove(MARK)

    with only_one_at(there, sleep=end):
        pass
    assert sum(waited) < BEAT_S


def test_the_mark_changes_while_the_training_lives_even_after_a_write_that_fails(
    there: DistantFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark, "BEAT_S", 0.001)
    beaten, write, calls = threading.Event(), there.write, iter(range(1_000_000))

    def flaky(name: str, content: bytes) -> None:
        number = next(calls)
        if number == 1:
            raise OSError("the network is down")
        write(name, content)
        if number == 3:
            beaten.set()

    monkeypatch.setattr(there, "write", flaky)
    with only_one_at(there, sleep=never):
        assert beaten.wait(60)
        assert b'"beat": 0' not in (there.read(MARK) or b"")


def test_an_address_that_can_not_be_written_is_refused(
    there: DistantFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, content: bytes) -> None:
        raise OSError("Access Denied")

    monkeypatch.setattr(there, "write", refuse)
    words = r"run_dir must be an address that can be written to.*Access Denied.*choose another"
    with pytest.raises(ValueError, match=words), only_one_at(there):
        pass
