from __future__ import annotations

import time

import pytest

from dmeta.runtime.cluster import access
from dmeta.runtime.ray.head_monitor import HeadWatch

SECONDS = 30


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_silent_head_is_given_up_after_a_while_and_one_that_is_back_is_not(monkeypatch):
    answers = access.Found("nothing", "no answer")
    asked = []

    def ask(address):
        asked.append(address)
        return answers

    monkeypatch.setattr(access, "ask", ask)
    watch = HeadWatch("host:1", ask_every_s=0.01, lost_after_s=0.05)
    try:
        watch.check()
        wait_for(lambda: watch._silent_since is not None)
        time.sleep(0.06)
        with pytest.raises(
            RuntimeError, match=r"\(host:1\) must answer, .*continue with resume=auto"
        ):
            watch.check()
        answers = access.Found("refusal", "no token")  # which is an answer
        wait_for(lambda: watch._silent_since is None)
        watch.check()
    finally:
        watch.close()
    assert set(asked) == {"host:1"}


def test_the_head_of_a_cluster_answers_and_an_empty_port_does_not(cluster):
    address = cluster.get_runtime_context().gcs_address
    assert access.ask(address).what != "nothing"
    assert access.ask("127.0.0.1:1").what == "nothing"
