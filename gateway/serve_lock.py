"""What makes a server the only one: a lock on its state folder, and its ports.

Invariant: the lock is held by an open file, so the kernel releases it however its holder ends; a port is bound here
first without SO_REUSEPORT, because two servers that share a port that way take each other's requests in silence.
Used by the supervisor to hold both, and by commands to find the server of a state folder. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from registry.errors import InvalidSetting
from registry.home import Home


class AlreadyServing(InvalidSetting):
    """Another `driftgate serve` holds this state folder."""


class PortTaken(InvalidSetting):
    """Another program listens there."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What `serve.lock` says while a server runs."""

    pid: int
    control_url: str
    data_url: str
    run_dir: str
    boot_id: str
    grpc_url: str = ""  # host:port; empty when this server speaks no gRPC


def read_lock(home: Home) -> Serving | None:
    """Who serves from this state folder now; None when nobody does, whatever the file says."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 65536, 0)
        else:
            return None  # nobody holds it: what it says is of the past
    finally:
        os.close(descriptor)
    with contextlib.suppress(ValueError, TypeError):
        return Serving(**json.loads(text))
    return None


@contextlib.contextmanager
def hold_lock(home: Home) -> Iterator[int]:
    """Hold the state folder. Raises AlreadyServing, naming who has it."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for attempt in range(20):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A reader asking whether anybody serves holds it for microseconds: look again before giving up.
                other = read_lock(home)
                if attempt == 19 or other is not None:
                    who = f"process {other.pid}, control port {other.control_url}" if other else "another process"
                    raise AlreadyServing(
                        f"{home.root} is already served by {who}. Stop it first, or use another --home."
                    ) from None
                time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


def take_port(host: str, port: int, *, flag: str, wait_s: float = 0.0) -> socket.socket:
    """A bound socket that keeps host:port for our children and out of everybody else's hands.

    Bound without SO_REUSEPORT, so a port in use is refused (PortTaken); then opened for sharing with processes of the
    same user. It never listens, so the kernel gives it no connection. Port 0 takes a free one.
    """
    until = time.monotonic() + wait_s
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        taken = socket.socket(family, socket.SOCK_STREAM)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # over connections that are only remembered
            taken.bind((host, port))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # so the next one's check above finds us
            return taken
        except OSError as fault:
            taken.close()
            if time.monotonic() >= until or isinstance(fault, socket.gaierror):
                raise PortTaken(
                    f"cannot listen on {host} port {port}: {fault.strerror or fault}. "
                    f"Choose another with {flag}, or stop what listens there."
                ) from None
        time.sleep(0.1)


def write_lock(descriptor: int, text: bytes) -> None:
    """Say who serves; empty when a server has stopped in order."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)
    os.fsync(descriptor)
