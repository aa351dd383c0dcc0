"""The dashboard of a Ray cluster, where jobs are submitted: finds it and checks its access.

Knows Ray and HTTP, and nothing of what is computed.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import requests
from ray.dashboard.utils import ray_address_to_api_server_url

from dmeta.runtime.cluster import access
from dmeta.runtime.cluster.access import Found

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Of Ray, which say where the dashboard is; the first that is set."""

_DEFAULT = "http://127.0.0.1:8265"
"""Of a cluster on this machine, or at the other end of a forwarded port."""

_TIMEOUT_S = 10.0
_REFUSALS = (401, 403)


def locate(address: str | None, *, allow_unauthenticated: bool) -> str:
    """The dashboard's address.

    Args:
        address: ``http://host:port`` of it, or ``auto`` or ``host:port`` of the cluster's head,
            which is then asked. None: what RAY_API_SERVER_ADDRESS, else RAY_ADDRESS says, else
            http://127.0.0.1:8265.
        allow_unauthenticated: ask a head on a network even if it requires no token.

    Raises:
        ValueError: it is no such address, or there is no cluster.
    """
    named = named_address(address)
    scheme = urlsplit(named).scheme if "://" in named else None
    if scheme in ("http", "https"):
        return named.rstrip("/")
    if scheme is not None:
        raise ValueError(
            f"submit.address (or {' or '.join(VARIABLES)}) must be the address of a dashboard, "
            f"got {named!r}; give one such as http://head:8265"
        )
    head = access.address_to_join(named, "submit.address")
    found = access.ask(head)
    if found.what == "nothing":
        raise ValueError(
            f"submit.address (or {' or '.join(VARIABLES)}) must be a dashboard (http://head:8265) "
            f"or the head of a cluster (head:6379), got {named} ({found.text}); correct it, or "
            "put http:// before it"
        )
    access.admit(head, allow_unauthenticated=allow_unauthenticated)
    return str(ray_address_to_api_server_url(head))


def named_address(address: str | None) -> str:
    """What is said to be the address of the dashboard or the head; nothing is asked."""
    said = (address, *(os.environ.get(name) for name in VARIABLES))
    return next((each for each in said if each), _DEFAULT)


def admit_dashboard(url: str, *, allow_unauthenticated: bool) -> None:
    """Return if jobs may be handed in at `url`, and Ray is ready to show it our token.

    Raises:
        ValueError: no dashboard answers there, it refuses our token or the lack of one, or it asks
            nobody for a token and listens on the network.
    """
    found = ask_dashboard(url)
    if found.what == "nothing":
        raise ValueError(
            f"a Ray dashboard must listen at {url}, got {found.text}; give submit.address (or "
            f"{VARIABLES[0]}), forward the port (`ssh -L 8265:127.0.0.1:8265 HEAD`), or start the "
            "cluster with its dashboard"
        )
    if found.what == "refusal":
        access.show_token(url, ask_dashboard)
    elif not allow_unauthenticated:
        access.refuse_open(urlsplit(url).netloc)


def ask_dashboard(url: str, token: str | None = None) -> Found:
    """What is at `url`, with our token or without one."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        # Redirected, the token would go elsewhere.
        reply = requests.get(
            f"{url}/api/version", headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
        )
        if reply.status_code in _REFUSALS:
            return Found("refusal", reply.text)
        if reply.status_code != 200:
            return Found("nothing", f"HTTP status {reply.status_code}")
        return Found("cluster", str(reply.json()["ray_version"]))
    except requests.ConnectionError:
        return Found("nothing", "no connection")
    except requests.Timeout:
        return Found("nothing", f"no answer in {_TIMEOUT_S:g} s")
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return Found("nothing", "what is no answer of Ray")
