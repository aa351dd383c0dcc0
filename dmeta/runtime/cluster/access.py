"""Whether a cluster may be joined: asks the server at its address before Ray does.

Ray itself joins a cluster that everyone on the network can give orders to without a word, waits two
minutes for an address where nothing listens, and twenty seconds for a token that is refused.

Knows Ray and its wire, and nothing of what is computed.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import grpc
import ray
from ray._common.network_utils import parse_address  # type: ignore[attr-defined]
from ray._private import services
from ray._private.authentication.authentication_token_setup import _enable_token_auth
from ray.core.generated.gcs_service_pb2 import (  # type: ignore[attr-defined]
    CheckAliveReply,
    CheckAliveRequest,
)

from dmeta.runtime.cluster import tokens

LOOPBACK = "127.0.0.1"

_TIMEOUT_S = 10.0
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"

HOW_TO_START = (
    "start the cluster with a token (`ray get-auth-token --generate`, the same ~/.ray/auth_token "
    "on every machine, and RAY_AUTH_MODE=token before each `ray start`)"
)


class Found(NamedTuple):
    """What answers at an address: a cluster, one that refuses the token, or something else."""

    what: Literal["cluster", "refusal", "nothing"]
    text: str
    """Ray's version of a cluster, else why there is none."""


def address_to_join(address: str | None, key: str = "runtime.address") -> str:
    """``host:port`` of the cluster that Ray would join: RAY_ADDRESS and ``auto`` looked up.

    Args:
        address: as it was given.
        key: the setting it was given by, for messages.

    Raises:
        ValueError: it is no such address, or ``auto`` finds no cluster.
    """
    named = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if named == "auto":
            named = str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        raise ValueError(
            f"{key}=auto must find a running cluster, got none on this machine; start one "
            f"(`ray start --head`), name its host:port, or leave {key} out"
        ) from None
    if "://" in named or parse_address(named) is None:
        raise ValueError(
            f"{key} (or RAY_ADDRESS) must be auto or host:port, got {named!r}; give the address "
            "that `ray start --head` printed (a run is a program inside the cluster: from outside, "
            "`dmeta submit`)"
        )
    reachable = str(services.canonicalize_bootstrap_address(named))
    # Ray takes 127.0.0.1 for this machine's address on the network, where a cluster that listens
    # on loopback alone does not answer.
    if is_loopback(named) and not is_loopback(reachable) and ask(reachable).what == "nothing":
        return named.replace("localhost", LOOPBACK)
    return reachable


def admit(address: str, *, allow_unauthenticated: bool) -> None:
    """Return if the cluster at `address` may be joined, and Ray is ready to show it our token.

    Ray sends a token only with RAY_AUTH_MODE=token; for an address that was given this is set here,
    where the cluster requires a token and there is one.

    Raises:
        ValueError: nothing answers there, it is of another version of Ray, it refuses our token or
            the lack of one, or it requires no token and listens on the network.
    """
    if uses_tls():
        return  # both sides show certificates: Ray checks
    open_to_all = ask(address)
    if open_to_all.what == "nothing":
        raise ValueError(
            f"a Ray cluster must listen at runtime.address (or RAY_ADDRESS) {address}, got "
            f"{open_to_all.text}; correct the address, or start the cluster (`ray start --head`)"
        )
    if open_to_all.what == "cluster":
        _check_version(address, open_to_all.text)
        if not allow_unauthenticated:
            refuse_open(address)
        return
    _check_version(address, show_token(address, ask))


def refuse_open(address: str) -> None:
    """Return if the cluster at `address`, which requires no token, is on this machine alone.

    Raises:
        ValueError: it is on a network.
    """
    if not is_loopback(address):
        raise ValueError(
            "a cluster on a network must require a token, because anyone who can reach it can "
            f"run any program on it, got one at {address} that requires none; {HOW_TO_START}, or "
            "set runtime.allow_unauthenticated=true if everyone on its network is trusted"
        )


def ask(address: str, token: str | None = None) -> Found:
    """What is at `address`, with our token or without one."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check_alive = channel.unary_unary(
            _CHECK_ALIVE,
            request_serializer=CheckAliveRequest.SerializeToString,
            response_deserializer=CheckAliveReply.FromString,
        )
        try:
            reply = check_alive(CheckAliveRequest(), timeout=_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return Found("refusal", error.details())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Found("nothing", f"no answer in {_TIMEOUT_S:g} s")
            return Found("nothing", _last_words(error.details()))
    return Found("cluster", reply.ray_version)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``host:port``."""
    host = (parse_address(address) or (address,))[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def show_token(address: str, asking: Callable[[str, str | None], Found]) -> str:
    """Make Ray show our token to the cluster that asked for one.

    Args:
        address: of the cluster.
        asking: `ask`, or what asks its dashboard.

    Returns: the cluster's version of Ray.

    Raises:
        ValueError: there is no token, or it is another's.
    """
    if tokens.mode() != "token":
        raise ValueError(
            f"the cluster at {address} must be shown its token, got RAY_AUTH_MODE={tokens.mode()}; "
            "unset it"
        )
    tokens.check_file()
    token = tokens.our_token()
    if token is None:
        raise ValueError(
            f"the cluster at {address} must be shown its token, got none; copy the one of the "
            "machine where it was started (~/.ray/auth_token there) to ~/.ray/auth_token, readable "
            "by you alone, or set RAY_AUTH_TOKEN_PATH to it"
        )
    found = asking(address, token)
    if found.what != "cluster":
        raise ValueError(
            f"the cluster at {address} must be shown its token, got another ({tokens.origin()}); "
            "take the one of the machine where the cluster was started (~/.ray/auth_token there)"
        )
    if "RAY_AUTH_MODE" not in os.environ:
        _enable_token_auth()
    return found.text


def _check_version(address: str, version: str) -> None:
    if version != ray.__version__:
        raise ValueError(
            f"the cluster at {address} must run this program's Ray {ray.__version__}, got "
            f"{version}; install the same version here and there"
        )


def uses_tls() -> bool:
    """Whether both sides show certificates; ours we cannot show."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _last_words(details: str | None) -> str:
    """The cause at the end of gRPC's account of all that it tried."""
    return re.sub(r"^.*last error: |\w+: ipv[46]:\S+ ", "", details or "no answer")
