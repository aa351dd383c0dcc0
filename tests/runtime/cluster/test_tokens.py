from __future__ import annotations

import logging
import stat

import pytest

from dmeta.runtime.cluster import tokens


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without a token, as this process and Ray see it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    loader = tokens.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    yield tmp_path
    monkeypatch.undo()
    loader.reset_cache()


def test_a_token_is_made_for_its_owner_alone_and_then_stays_as_it_is(home):
    assert tokens.our_token() is None
    tokens.make_private_token()
    file = home / ".ray" / "auth_token"
    first = file.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens.make_private_token()
    assert file.read_text() == first
    assert tokens.our_token() == first


def test_no_token_is_made_where_ray_would_use_none(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    tokens.make_private_token()
    assert not list(home.iterdir())


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o644, True)])
def test_a_token_that_others_can_read_is_told_and_not_shown(home, caplog, mode, warns):
    tokens.make_private_token()
    file = home / ".ray" / "auth_token"
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        tokens.check_file()
    assert ("must be readable by you alone" in caplog.text) is warns
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_text() not in caplog.text


def test_a_token_path_that_leads_nowhere_is_refused(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "nowhere"))
    with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN_PATH must lead to a token.*nowhere"):
        tokens.check_file()
