"""A server under test: its address, and plain HTTP to it, byte by byte where a case wants that.

Only the standard library: nothing between a case and the wire mends what a case breaks on purpose.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as strict JSON: bare NaN and Infinity are no JSON."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON: {self.body[:200]!r}")

        try:
            return json.loads(self.body, parse_constant=refuse)
        except ValueError:
            raise AssertionError(f"{self.status} with a body that is no JSON: {self.body[:200]!r}") from None

    def ok(self) -> dict[str, Any]:
        """The JSON object of a 200."""
        assert self.status == 200, f"{self.status}: {self.body[:300]!r}"
        document = self.json()
        assert isinstance(document, dict), document
        return document


class Target:
    """The server under test."""

    def __init__(self, url: str, grpc: str | None = None, without: Collection[str] = ()) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"a target is http://host:port, got {url!r}")
        self.host, self.port = parts.hostname, parts.port or 80
        self.grpc = grpc
        self.without = frozenset(without) | (frozenset() if grpc else {"grpc"})
        self._has: dict[str, bool] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """One request on a connection of its own. A body that is not bytes is sent as JSON, with its content type."""
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {**JSON, **(headers or {})}
        with self.connection(timeout_s) as connection:
            connection.send(method, path, body, headers or {})
            return connection.read(method)

    def get(self, path: str) -> Answer:
        """A GET."""
        return self.ask("GET", path)

    def infer(self, model: str, body: Any, headers: Mapping[str, str] | None = None, version: str = "") -> Answer:
        """A request to a model; a version goes into the URL."""
        middle = f"/versions/{version}" if version else ""
        return self.ask("POST", f"/v2/models/{model}{middle}/infer", body, headers)

    def has(self, model: str) -> bool:
        """Whether the server has this model and says it is ready."""
        if model not in self._has:
            self._has[model] = self.get(f"/v2/models/{model}/ready").status == 200
        return self._has[model]

    def is_live(self) -> bool:
        """Whether it says so."""
        return self.get("/v2/health/live").status == 200

    def is_well(self) -> bool:
        """Whether it answers an ordinary request, of the model that is asked most."""
        body = {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
        try:
            return self.ask("POST", "/v2/models/identity_fp32/infer", body, timeout_s=30.0).status == 200
        except (OSError, AssertionError):
            return False

    def comes_back(self, within_s: float = 60.0) -> bool:
        """Whether it is well again within this time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.is_well():
                return True
            time.sleep(0.3)
        return False

    @cached_property
    def version(self) -> str:
        """A version of identity_fp32 that may be named in a URL; empty: its metadata lists none."""
        listed = self.get("/v2/models/identity_fp32").ok().get("versions") or []
        return str(listed[-1]) if listed else ""

    @contextmanager
    def connection(self, timeout_s: float = TIMEOUT_S) -> Iterator[Connection]:
        """A TCP connection to the HTTP port."""
        with socket.create_connection((self.host, self.port), timeout_s) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield Connection(plain, f"{self.host}:{self.port}")


class _Reader:
    """What http.client wants of a socket, over one buffered file, so that answers that came together stay apart."""

    def __init__(self, plain: socket.socket) -> None:
        self.file = plain.makefile("rb")

    def makefile(self, mode: str) -> Any:
        return _Unclosed(self.file)


class _Unclosed:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """The connection's file stays open for the next answer."""


class Connection:
    """A connection, for cases that care about more than one request on it or about its bytes."""

    def __init__(self, plain: socket.socket, host: str) -> None:
        self.plain, self.host = plain, host
        self._reader = _Reader(plain)

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Write a request with its length. A server may refuse, and close, before it has read all."""
        given = {"host": self.host, **(headers or {})}
        if body or method not in ("GET", "HEAD"):
            given["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)

    def write(self, data: bytes) -> None:
        """Bytes as they are; what the server no longer takes is dropped, its answer is what counts."""
        try:
            self.plain.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def read(self, method: str = "POST") -> Answer:
        """The next answer. Fails when the server gives none."""
        response = http.client.HTTPResponse(cast(socket.socket, self._reader), method=method)
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, OSError) as error:
            raise AssertionError(f"no answer: {type(error).__name__}: {error}") from None
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
