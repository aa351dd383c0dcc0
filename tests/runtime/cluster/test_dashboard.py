from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dmeta.runtime.cluster import access, dashboard, tokens
from dmeta.runtime.cluster.access import Found
from dmeta.runtime.cluster.dashboard import admit_dashboard, ask_dashboard, locate

TOKEN = "a" * 64


class FakeDashboard(HTTPServer):
    """Answers as Ray's dashboard does to who asks for its version."""

    def __init__(self, token: str | None, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.status = token, status
        self.shown: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeDashboard

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization")
        self.server.shown += [shown] if shown else []
        status = self.server.status
        if self.server.token and shown != f"Bearer {self.server.token}":
            status = 403 if shown else 401
        self.send_response(status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps({"ray_version": "2.60.0"}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listening():
    """Starts fake dashboards."""
    servers = []

    def start(token: str | None = None, status: int = 200) -> FakeDashboard:
        server = FakeDashboard(token, status)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """We have a token; nothing says where the dashboard is; Ray's own mode is not changed."""
    for name in (*dashboard.VARIABLES, "RAY_AUTH_MODE", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(access, "_enable_token_auth", lambda: None)
    monkeypatch.setattr(tokens, "our_token", lambda: TOKEN)


@pytest.fixture
def on_a_network(monkeypatch):
    """Loopback stands for a network."""
    monkeypatch.setattr(access, "is_loopback", lambda address: False)


def test_a_dashboard_that_asks_for_our_token_is_shown_it(listening, on_a_network):
    server = listening(TOKEN)
    admit_dashboard(server.url, allow_unauthenticated=False)
    assert server.shown == [f"Bearer {TOKEN}"]


def test_a_dashboard_on_a_network_that_asks_for_no_token_is_refused(listening, on_a_network):
    server = listening()
    with pytest.raises(ValueError, match=r"must require a token.*got one at .*allow_unauth"):
        admit_dashboard(server.url, allow_unauthenticated=False)
    admit_dashboard(server.url, allow_unauthenticated=True)
    assert server.shown == []


def test_a_dashboard_on_loopback_needs_no_token(listening):
    admit_dashboard(listening().url, allow_unauthenticated=False)


def test_another_token_is_refused_without_saying_it(listening):
    with pytest.raises(ValueError, match="must be shown its token, got another") as raised:
        admit_dashboard(listening("b" * 64).url, allow_unauthenticated=True)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_what_is_no_dashboard_is_refused(listening, status):
    with pytest.raises(ValueError, match=rf"must listen at .*got HTTP status {status}; give sub"):
        admit_dashboard(listening(status=status).url, allow_unauthenticated=True)


def test_a_redirection_does_not_get_the_token(listening):
    server = listening(status=302)
    assert ask_dashboard(server.url, TOKEN) == Found("nothing", "HTTP status 302")
    assert len(server.shown) == 1


def test_where_nothing_listens_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"must listen at .*got no connection"):
            admit_dashboard(url, allow_unauthenticated=True)


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://head"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match=rf"must be the address of a dashboard, got '{address}'"):
        locate(address, allow_unauthenticated=True)


def test_the_port_of_a_dashboard_without_http_is_told(monkeypatch):
    monkeypatch.setattr(access, "address_to_join", lambda address, key: address)
    monkeypatch.setattr(access, "ask", lambda address: Found("nothing", "no Ray"))
    with pytest.raises(ValueError, match=r"got head:8265 \(no Ray\); correct it, or put http://"):
        locate("head:8265", allow_unauthenticated=True)


def test_the_head_of_a_cluster_says_where_its_dashboard_is(monkeypatch):
    asked = []
    monkeypatch.setattr(access, "address_to_join", lambda address, key: "head:6379")
    monkeypatch.setattr(access, "ask", lambda address: Found("refusal", ""))
    monkeypatch.setattr(access, "admit", lambda address, **how: asked.append((address, how)))
    monkeypatch.setattr(dashboard, "ray_address_to_api_server_url", lambda address: "http://h:8265")
    assert locate("auto", allow_unauthenticated=False) == "http://h:8265"
    assert asked == [("head:6379", {"allow_unauthenticated": False})]


def test_an_address_of_ones_own_comes_before_rays_variables(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:8265")
    assert locate("http://own:8265/", allow_unauthenticated=False) == "http://own:8265"
    assert locate(None, allow_unauthenticated=False) == "http://other:8265"
