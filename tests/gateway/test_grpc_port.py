"""Whether a server speaks gRPC: on insists, auto never stands in the way, off does not try."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gateway import grpc_port
from gateway.grpc_port import take_grpc_port
from gateway.serve_lock import PortTaken
from gateway.settings import GatewaySettings
from registry.errors import InvalidSetting


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("grpc", ["auto", "on"])
def test_a_free_port_is_held(grpc: str) -> None:
    holder = take_grpc_port(GatewaySettings(grpc=grpc, grpc_port=0), print)
    assert holder is not None
    with holder:
        assert holder.getsockname()[1] > 0


def test_off_takes_nothing() -> None:
    assert take_grpc_port(GatewaySettings(grpc="off", grpc_port=0), print) is None


def test_a_taken_port_is_refused_where_grpc_must_be_and_told_where_it_may(taken: int) -> None:
    with pytest.raises(PortTaken, match="--grpc-port"):
        take_grpc_port(GatewaySettings(grpc="on", grpc_port=taken), print)
    said: list[str] = []
    assert take_grpc_port(GatewaySettings(grpc="auto", grpc_port=taken), said.append) is None
    assert said[0].startswith(f"no gRPC: cannot listen on 127.0.0.1 port {taken}")


def test_without_the_packages_serve_refuses_only_where_grpc_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_port, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match=r"pip install 'driftgate\[grpc\]'"):
        take_grpc_port(GatewaySettings(grpc="on", grpc_port=0), print)
    assert take_grpc_port(GatewaySettings(grpc="auto", grpc_port=0), print) is None
