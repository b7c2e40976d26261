"""An open loop: requests go out at their intended times over keep-alive connections, however slow the answers are.

One thread, one epoll, plain sockets, in a process of its own on the load's core: about 15 us of it a request, so that a
busy load is not mistaken for a busy server (`Outcomes.cpu_share` and `lag_ms` tell). A request takes an idle connection
or opens one; where `connections` are all taken it waits, and that wait counts, as everything does, from the intended
send. Invariant: every intended request has exactly one outcome. HTTP/1.1 with Content-Length only.

`offer` starts that process; `python -m bench.open_loop` is it.
"""

from __future__ import annotations

import errno
import heapq
import os
import pickle
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.outcomes import BROKEN, LEFT, NO_ANSWER, ROW, Outcomes
from bench.schedule import Times
from bench.servers import LOAD_CORE, on_cores, python

_PATIENCE_S = 15.0  # after the last intended send
_WAIT_MAX_S = 0.1


@dataclass
class Stream:
    """Requests of one kind. `bodies` are used in turn. `leaves_s` after the send (NaN: never) its caller hangs up."""

    name: str
    port: int
    path: str
    bodies: Sequence[bytes]
    times: Times
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int = 512
    leaves_s: Times | None = None

    def requests(self) -> list[bytes]:
        """Whole requests, ready to be sent."""
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in {"content-type": "application/json", **self.headers}.items()]
        head = "\r\n".join(lines)
        return [f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body for body in self.bodies]


class _Connection:
    __slots__ = ("connecting", "index", "left", "pool", "received", "socket")

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)  # a server whose queue of new connections is full must not hold up the others
        failed = self.socket.connect_ex(("127.0.0.1", pool.port))
        self.connecting = failed == errno.EINPROGRESS
        if failed and not self.connecting:
            self.socket.close()
            raise OSError(failed, os.strerror(failed))
        self.index = -1  # the request that is in flight here
        self.received = b""
        self.left = b""  # what the kernel did not take yet


class _Pool:
    """One stream's connections."""

    def __init__(self, stream: Stream) -> None:
        self.port, self.limit = stream.port, stream.connections
        self.requests = stream.requests()
        self.next = 0
        self.idle: list[_Connection] = []
        self.open = 0
        self.waiting: deque[int] = deque()


class _Loop:
    """The load itself. `run` sends everything and waits for what is due."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._epoll = select.epoll()
        self._pools = [_Pool(stream) for stream in streams]
        self._connections: dict[int, _Connection] = {}
        self._leaving: list[tuple[float, int, int, _Connection]] = []
        order = np.argsort(np.concatenate([stream.times for stream in streams]), kind="stable")
        self._stream: list[int] = np.repeat(np.arange(len(streams)), [len(s.times) for s in streams])[order].tolist()
        self._intended: list[float] = np.concatenate([stream.times for stream in streams])[order].tolist()
        never = [np.full(len(s.times), np.nan) if s.leaves_s is None else s.leaves_s for s in streams]
        self._leaves: list[float] = np.concatenate(never)[order].tolist()
        total = len(self._intended)
        self._sent, self._done = [np.nan] * total, [np.nan] * total
        self._status, self._retry = [NO_ANSWER] * total, [False] * total
        self._open = 0  # requests in flight or waiting for a connection

    def run(self) -> NDArray[np.void]:
        """Send all; the rows of ROW."""
        self._start = time.perf_counter() + 0.05
        due, total = 0, len(self._intended)
        give_up = (self._intended[-1] if total else 0.0) + _PATIENCE_S
        while due < total or self._open:
            now = time.perf_counter() - self._start
            while due < total and self._intended[due] <= now:
                self._open += 1
                self._send(due)
                due += 1
            self._hang_up(now)
            if now > give_up:
                break
            wait = self._intended[due] - now if due < total else _WAIT_MAX_S
            if self._leaving:
                wait = min(wait, self._leaving[0][0] - now)
            if wait > 0:  # select, since epoll rounds waits up to whole milliseconds
                select.select([self._epoll], [], [], min(wait, _WAIT_MAX_S))
            for descriptor, event in self._epoll.poll(0):
                if connection := self._connections.get(descriptor):
                    self._heard(connection, event)
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()
        rows = np.zeros(total, dtype=ROW)
        columns = (self._stream, self._intended, self._sent, self._done, self._status, self._retry)
        for name, column in zip(ROW.names or (), columns, strict=True):
            rows[name] = column
        return rows

    def _send(self, index: int) -> None:
        pool = self._pools[self._stream[index]]
        if pool.idle:
            connection = pool.idle.pop()
        elif pool.open < pool.limit:
            try:
                connection = _Connection(pool)
            except OSError:
                self._finish(index, BROKEN)
                return
            pool.open += 1
            descriptor = connection.socket.fileno()
            self._connections[descriptor] = connection
            self._epoll.register(descriptor, select.EPOLLIN)
        else:
            pool.waiting.append(index)
            return
        connection.index = index
        data = pool.requests[pool.next]
        pool.next = (pool.next + 1) % len(pool.requests)
        self._sent[index] = time.perf_counter() - self._start
        if self._leaves[index] == self._leaves[index]:  # not NaN
            entry = (self._sent[index] + self._leaves[index], index, connection.socket.fileno(), connection)
            heapq.heappush(self._leaving, entry)
        if connection.connecting:
            connection.left = data
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        else:
            self._push(connection, data)

    def _push(self, connection: _Connection, data: bytes) -> None:
        try:
            taken = connection.socket.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._close(connection, BROKEN)
            return
        was, connection.left = bool(connection.left), data[taken:]
        if bool(connection.left) != was:
            events = select.EPOLLIN | (select.EPOLLOUT if connection.left else 0)
            self._epoll.modify(connection.socket.fileno(), events)

    def _heard(self, connection: _Connection, event: int) -> None:
        if connection.connecting:
            if event & (select.EPOLLERR | select.EPOLLHUP):
                self._close(connection, BROKEN)
                return
            connection.connecting = False
        if event & select.EPOLLOUT and connection.left:
            self._push(connection, connection.left)
        if not event & ~select.EPOLLOUT or connection.socket.fileno() < 0:
            return
        try:
            data = connection.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection, BROKEN)
            return
        received = connection.received = connection.received + data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = received[:head_end].lower()
        at = head.find(b"content-length:")
        if at < 0 or connection.index < 0:
            self._close(connection, BROKEN)
            return
        end = head.find(b"\r\n", at)
        if len(received) - head_end - 4 < int(head[at + 15 : end if end > 0 else len(head)]):
            return
        status = int(head[9:12])
        index = connection.index
        self._done[index] = time.perf_counter() - self._start
        self._retry[index] = status != 200 and b"\r\nretry-after:" in head
        connection.received, connection.index = b"", -1
        self._finish(index, status)
        if b"\r\nconnection: close" in head:
            self._close(connection, BROKEN)
        else:
            connection.pool.idle.append(connection)
        self._serve_waiting(connection.pool)

    def _hang_up(self, now: float) -> None:
        while self._leaving and self._leaving[0][0] <= now:
            _, index, _, connection = heapq.heappop(self._leaving)
            if connection.index == index:
                self._close(connection, LEFT)

    def _close(self, connection: _Connection, status: int) -> None:
        descriptor, pool = connection.socket.fileno(), connection.pool
        if descriptor < 0:
            return
        self._epoll.unregister(descriptor)
        del self._connections[descriptor]
        connection.socket.close()
        pool.open -= 1
        if connection in pool.idle:
            pool.idle.remove(connection)
        if connection.index >= 0:
            self._finish(connection.index, status)
            connection.index = -1
        self._serve_waiting(pool)

    def _serve_waiting(self, pool: _Pool) -> None:
        if pool.waiting and (pool.idle or pool.open < pool.limit):
            self._send(pool.waiting.popleft())

    def _finish(self, index: int, status: int) -> None:
        self._status[index] = status
        self._open -= 1


class Offered:
    """A load that is running in its own process."""

    def __init__(self, streams: Sequence[Stream], core: int | None) -> None:
        self._names = tuple(stream.name for stream in streams)
        with on_cores([core] if core is not None else os.sched_getaffinity(0)):
            self._process = subprocess.Popen(
                python("-m", "bench.open_loop"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self._process.stdin is not None
        pickle.dump(list(streams), self._process.stdin)
        self._process.stdin.close()

    def outcomes(self) -> Outcomes:
        """Wait for its end. Raises RuntimeError when it failed."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            said = pipe.read()
        if self._process.wait(30):
            raise RuntimeError("the load failed; its error is above")
        rows, cpu_share = pickle.loads(said)
        return Outcomes(rows, self._names, cpu_share)


def offer(streams: Sequence[Stream], core: int | None = LOAD_CORE) -> Offered:
    """Start sending; go on at once."""
    return Offered(streams, core)


def main() -> None:
    """The load's process: streams by stdin, rows and its share of the core by stdout."""
    loop = _Loop(pickle.load(sys.stdin.buffer))
    wall, cpu = time.perf_counter(), time.process_time()
    rows = loop.run()
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    pickle.dump((rows, share), sys.stdout.buffer)


if __name__ == "__main__":
    main()
