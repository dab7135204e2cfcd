"""A port that was found free is still free when its server starts a moment later."""

import socket
from pathlib import Path

import pytest

from local_cluster import ports


def test_ports_differ_and_are_none_that_an_outgoing_connection_gets() -> None:
    found = ports.free(200)
    assert len({*found}) == 200
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < lowest


def test_a_port_that_is_listened_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "CHOICE", range(port, port + 1))
        with pytest.raises(OSError, match="no free port"):
            ports.free(1)
