"""Whether this server speaks gRPC, decided once, before a worker is started. Called by the supervisor and the doctor.

`auto` never stands in the way of HTTP: where the extra is not installed, or the port is taken, there is no gRPC, and
the server says so as it starts. `on` insists. Imports neither grpc nor protobuf.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.util import find_spec

from gateway.serve_lock import PortTaken, take_port
from gateway.settings import GatewaySettings
from registry.errors import InvalidSetting

FLAG = "--grpc-port"
HOW_TO_INSTALL = "pip install 'driftgate[grpc]'"


def is_installed() -> bool:
    """Whether the packages of the extra are here."""
    try:
        return find_spec("grpc") is not None and find_spec("google.protobuf") is not None
    except ModuleNotFoundError:  # there is no package google at all
        return False


def take_grpc_port(gateway: GatewaySettings, say: Callable[[str], None], wait_s: float = 0.0) -> socket.socket | None:
    """The port's holder, as `take_port` gives it; None: no gRPC. Raises InvalidSetting or PortTaken when it must be."""
    if gateway.grpc == "off":
        return None
    insists = gateway.grpc == "on"
    if not is_installed():
        if insists:
            raise InvalidSetting(
                f"gRPC needs packages that are not installed: {HOW_TO_INSTALL}, or serve without {FLAG}."
            )
        return None
    try:
        return take_port(gateway.host, gateway.grpc_port, flag=FLAG, wait_s=wait_s if insists else 0.0)
    except PortTaken as taken:
        if insists:
            raise
        say(f"no gRPC: {taken.message} (gateway.grpc is auto; on would refuse to start, off would not try)")
        return None
