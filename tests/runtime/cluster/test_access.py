from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import ray

from dmeta.runtime.cluster import access, tokens
from dmeta.runtime.cluster import connect as clusters
from dmeta.runtime.cluster.access import CheckAliveReply, Found, address_to_join, admit, ask

TOKEN = "a" * 64


class FakeCluster(grpc.GenericRpcHandler):
    """Answers as a Ray cluster does to who asks whether it is there."""

    def __init__(self, token: str | None, version: str) -> None:
        self.token, self.version = token, version
        self.shown: list[str] = []

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        shown = dict(context.invocation_metadata()).get("authorization")
        self.shown += [shown] if shown else []
        if self.token and shown != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return CheckAliveReply(ray_version=self.version).SerializeToString()


@pytest.fixture
def listening():
    """Starts fake clusters."""
    servers = []

    def start(token: str | None = None, version: str = ray.__version__) -> tuple[str, FakeCluster]:
        fake = FakeCluster(token, version)
        server = grpc.server(ThreadPoolExecutor(1), handlers=[fake])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", fake

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No cluster, token or mode is set; Ray's own mode is not changed for other tests."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(access, "_enable_token_auth", lambda: None)
    monkeypatch.setattr(tokens, "our_token", lambda: TOKEN)
    return monkeypatch


@pytest.fixture
def on_a_network(monkeypatch):
    """Loopback stands for a network."""
    monkeypatch.setattr(access, "is_loopback", lambda address: False)


def test_a_cluster_on_a_network_that_asks_for_no_token_is_refused(listening, on_a_network):
    address, fake = listening()
    with pytest.raises(ValueError, match=r"must require a token.*RAY_AUTH_MODE=token.*allow_un"):
        admit(address, allow_unauthenticated=False)
    assert fake.shown == []


def test_a_cluster_without_a_token_is_joined_if_the_user_says_so(listening, on_a_network):
    admit(listening()[0], allow_unauthenticated=True)


def test_a_cluster_without_a_token_on_loopback_is_joined(listening):
    admit(listening()[0], allow_unauthenticated=False)


def test_ray_is_told_to_show_the_token_that_a_cluster_asks_for(
    listening, on_a_network, monkeypatch
):
    told = []
    monkeypatch.setattr(access, "_enable_token_auth", lambda: told.append(True))
    address, fake = listening(TOKEN)
    admit(address, allow_unauthenticated=False)
    assert told == [True]
    assert fake.shown == [f"Bearer {TOKEN}"]


def test_another_token_is_refused_without_saying_it(listening, on_a_network):
    address, _ = listening("b" * 64)
    with pytest.raises(
        ValueError, match=r"must be shown its token, got another \(RAY_AUTH"
    ) as raised:
        admit(address, allow_unauthenticated=True)
    assert TOKEN not in str(raised.value)


def test_a_token_that_is_missing_is_refused(listening, monkeypatch):
    monkeypatch.setattr(tokens, "our_token", lambda: None)
    with pytest.raises(ValueError, match=r"must be shown its token, got none; copy"):
        admit(listening(TOKEN)[0], allow_unauthenticated=True)


def test_a_mode_that_shows_no_token_is_refused(listening, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="got RAY_AUTH_MODE=disabled; unset it"):
        admit(listening(TOKEN)[0], allow_unauthenticated=True)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_cluster_of_another_version_is_refused(listening, token):
    address, _ = listening(token, "2.9.1")
    with pytest.raises(
        ValueError, match=rf"must run this program's Ray {ray.__version__}, got 2\.9"
    ):
        admit(address, allow_unauthenticated=True)


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ValueError, match=rf"must listen at .*{address}, got .*refused; correct"
        ):
            admit(address, allow_unauthenticated=True)


@pytest.mark.parametrize("address", ["ray://host:10001", "http://host:8265", "nonsense", "host"])
def test_what_is_no_address_of_a_cluster_is_refused(address, monkeypatch):
    for given, variable in [(address, "host:1"), (None, address), ("auto", address)]:
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(ValueError, match="must be auto or host:port, got"):
            address_to_join(given)


def test_auto_that_finds_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(access.services, "find_gcs_addresses", set)
    monkeypatch.setattr(access.services, "find_bootstrap_address", lambda _: None)
    with pytest.raises(ValueError, match="address=auto must find a running cluster, got none"):
        address_to_join("auto")


def test_a_cluster_that_listens_on_loopback_alone_is_found_there(listening, monkeypatch):
    address, _ = listening(TOKEN)
    port = address.partition(":")[2]
    monkeypatch.setattr(
        access.services, "canonicalize_bootstrap_address", lambda _: f"192.0.2.77:{port}"
    )
    found = {address: Found("cluster", "")}
    monkeypatch.setattr(access, "ask", lambda at: found.get(at, Found("nothing", "")))
    assert address_to_join(f"localhost:{port}") == address
    found[f"192.0.2.77:{port}"] = Found("cluster", "")
    assert address_to_join(f"localhost:{port}") == f"192.0.2.77:{port}"


@pytest.mark.slow
def test_a_cluster_of_ones_own_asks_for_the_token(cluster, monkeypatch):
    address = cluster.get_runtime_context().gcs_address
    assert access.is_loopback(address)
    assert ask(address).what == "refusal"
    assert ask(address, TOKEN).what == "refusal"
    monkeypatch.undo()
    assert ask(address, tokens.our_token()) == Found("cluster", ray.__version__)


def test_a_ray_that_is_initialised_is_the_callers_decision(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setattr(access, "admit", lambda *_, **__: pytest.fail("asked"))
    assert not clusters.connect("192.0.2.1:6379")
