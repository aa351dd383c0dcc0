"""The mark that keeps two trainings from one address; time is made here."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import threading
import uuid

import pytest

from dmeta.runs import heartbeat
from dmeta.runs.heartbeat import BEAT_S, MARK, SILENCE_S, only_one_at
from dmeta.runs.lock import RunLocked
from dmeta.runs.remote_mirror import DistantFolder


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
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.001)
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


def test_a_mark_of_a_process_of_this_machine_that_was_killed_is_not_waited_for(
    there: DistantFolder, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import sys, os; from dmeta.runs.heartbeat import only_one_at; "
        "from dmeta.runs.remote_mirror import DistantFolder; "
        "lock = only_one_at(DistantFolder(sys.argv[1])); lock.__enter__(); os._exit(9)"
    )
    with tempfile.TemporaryDirectory() as folder:
        # fsspec's memory is of one process; its local files under another name are not.
        address = f"dir::file://{folder}"
        subprocess.run([sys.executable, "-c", code, address], check=False)
        left = DistantFolder(address).read(MARK)
        assert left is not None
        assert heartbeat.is_of_the_dead(left)
        there.write(MARK, left)
    with only_one_at(there, sleep=never):
        own = there.read(MARK)
        assert own is not None
        assert not heartbeat.is_of_the_dead(own), "this process lives"
    assert caplog.text == ""


def test_only_a_process_of_this_machine_can_be_known_to_be_dead(there: DistantFolder) -> None:
    with only_one_at(there, sleep=never):
        own = json.loads(there.read(MARK) or b"")
    assert heartbeat.is_of_the_dead(json.dumps({**own, "started": 1}).encode()), (
        "its number came again"
    )
    for other in ({"machine": "another"}, {"machine": None}, {"pid": "5"}):
        assert not heartbeat.is_of_the_dead(json.dumps({**own, "started": 1, **other}).encode())
    for torn in (b"torn {", b"[]", b'{"host": "node7"}', b"[" * 100_000):
        assert not heartbeat.is_of_the_dead(torn)
