"""One network namespace a node, joined by a bridge: a network that can be cut.

Needs root and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from tests.chaos.processes import command

_IP = "ip"


class Network:
    """Namespaces ``c<pid>n<i>`` with the addresses 10.213.<x>.<i+1> on the bridge ``c<pid>br``."""

    def __init__(self, num_nodes: int) -> None:
        """Made within `with`."""
        tag = f"c{os.getpid() % 1_000_000}"
        self._bridge = f"{tag}br"
        self._names = [f"{tag}n{i}" for i in range(num_nodes)]
        subnet = f"10.213.{os.getpid() % 250}"
        self._ips = [f"{subnet}.{i + 1}" for i in range(num_nodes)]

    @property
    def places(self) -> list[tuple[str, tuple[str, ...]]]:
        """Address of each node, and what is put in front of a command to run it there."""
        within = ((_IP, "netns", "exec", name) for name in self._names)
        return list(zip(self._ips, within, strict=True))

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def cut(self, node: int) -> None:
        """Cut a node off: what is sent to and from it is lost."""
        command(_IP, "link", "set", self._port(node), "down")

    def heal(self, node: int) -> None:
        """Undo `cut`."""
        command(_IP, "link", "set", self._port(node), "up")

    def _port(self, node: int) -> str:
        return f"{self._names[node]}v"  # the bridge's end of the cable

    def _make(self) -> None:
        command(_IP, "link", "add", self._bridge, "type", "bridge")
        command(_IP, "link", "set", self._bridge, "up")
        for i, (name, ip) in enumerate(zip(self._names, self._ips, strict=True)):
            port = self._port(i)
            command(_IP, "netns", "add", name)
            cable = ("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            command(_IP, *cable)
            command(_IP, "link", "set", port, "master", self._bridge)
            command(_IP, "link", "set", port, "up")
            inside = (_IP, "-n", name)
            command(*inside, "addr", "add", f"{ip}/24", "dev", "eth0")
            command(*inside, "link", "set", "eth0", "up")
            command(*inside, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in self._names:
            with contextlib.suppress(RuntimeError):  # was not made
                command(_IP, "netns", "del", name)
        with contextlib.suppress(RuntimeError):
            command(_IP, "link", "del", self._bridge)


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if shutil.which(_IP) is None:
        return "iproute2 is not installed"
    try:
        with Network(1):
            return ""
    except RuntimeError as error:
        return str(error)
