"""The token of a Ray cluster: where it is stored, and who else can read it.

Anyone who has it can run any program on the cluster: it goes into no log, setting, result or
message.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

_LOG = logging.getLogger(__name__)


def our_token() -> str | None:
    """The token that Ray would send, whether or not RAY_AUTH_MODE makes it do so.

    Raises:
        ValueError: RAY_AUTH_TOKEN_PATH names no token.
    """
    loader = AuthenticationTokenLoader.instance()
    try:
        if not loader.has_token(ignore_auth_mode=True):
            return None
        return str(loader.get_raw_token(ignore_auth_mode=True))
    except AuthenticationError:
        raise ValueError(
            f"{origin()} must lead to a token of Ray, got {os.environ.get(origin())!r}, which is "
            "empty or cannot be read; correct or unset it"
        ) from None


def origin() -> str:
    """Where Ray takes its token from: the first that is set."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return "RAY_AUTH_TOKEN_PATH" if os.environ.get("RAY_AUTH_TOKEN_PATH") else "~/.ray/auth_token"


def token_file() -> Path:
    """The file that Ray reads a token from, if RAY_AUTH_TOKEN gives none; it may not exist."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _default_path())


def check_file() -> None:
    """Warn of a token file that others can read: Ray leaves those it writes so (0644).

    It is not changed: a group may share a cluster on purpose, and the token is no secret any more.

    Raises:
        ValueError: RAY_AUTH_TOKEN_PATH names no token.
    """
    if origin() == "RAY_AUTH_TOKEN" or mode() != "token":
        return
    our_token()
    path = token_file()
    try:
        found = path.stat()
    except OSError:  # Ray will say so, or make it
        return
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (os.geteuid(), 0):
        _LOG.warning(
            "%s must be readable by you alone, because anyone who has this token of Ray can run "
            "programs as you, got mode %o of user %d; chmod 600 it, or delete it if others may "
            "have read it and no running cluster needs it",
            path,
            stat.S_IMODE(found.st_mode),
            found.st_uid,
        )


def make_private_token() -> None:
    """Write Ray's token file before Ray does: Ray would leave it readable by everyone (0644).

    An existing token is the user's and stays as it is. Linked into place, so that no process ever
    sees half a token.
    """
    path = _default_path()
    if mode() != "token" or not origin().startswith("~") or path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="auth_token.") as file:  # 0600
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
        if not path.exists():
            os.link(file.name, path)


def mode() -> str:
    """Ray's way to know its users: ``token``, the default of clusters of our own, or others."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower()


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"
