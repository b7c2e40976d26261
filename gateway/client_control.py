"""A client of a running server's control port, found by `serve.lock`. Used by the command line and by the demo.

Invariant: an error that the server answers is raised as the same class, with the same message, as if the work had been
done in this process; so commands treat both ways alike. Every POST carries an Idempotency-Key of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from gateway.serve_lock import read_lock
from registry import errors
from registry.errors import ServerNotFound, ServingError
from registry.home import Home

TOKEN_VARIABLE = "DRIFTGATE_TOKEN"  # noqa: S105 - the name of a variable
_CONNECT_S = 5.0


class ControlClient:
    """`/api/v1` of one server. Close it, or use it in a `with`."""

    def __init__(self, url: str, token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # trust_env=False: a proxy of the environment must never see, or be asked for, what runs on this machine.
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            trust_env=False,
            timeout=httpx.Timeout(60.0, connect=_CONNECT_S),
            transport=transport,
        )

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of GET /api/v1/<path>; a query value of None is left out. Raises ServingError."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"/api/v1/{path}", params=asked)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:
        """The JSON answer of POST /api/v1/<path>. Raises ServingError."""
        options: dict[str, Any] = {} if timeout_s is None else {"timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S)}
        key = {"idempotency-key": uuid.uuid4().hex}
        return self._call("POST", f"/api/v1/{path}", json=dict(body or {}), headers=key, **options)

    def items(self, path: str, **query: Any) -> Iterator[Any]:
        """Every item of a list, page by page."""
        after: Any = None
        while True:
            page = self.get(path, after=after, **query)
            yield from page["items"]
            after = page.get("next")
            if after is None:
                return

    def text(self, path: str) -> str:
        """The text of any path, such as /metrics. Raises ServingError."""
        answer = self._send("GET", path)
        if answer.status_code >= 400:
            raise _as_raised(answer)
        return answer.text

    def health(self) -> tuple[int, Any]:
        """Status and body of the control port's own /readyz, whatever it says."""
        answer = self._send("GET", "/readyz")
        return answer.status_code, _body(answer)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._send(method, path, **options)
        if answer.status_code >= 400:
            raise _as_raised(answer)
        return _body(answer)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise ServerNotFound(f"the server at {self.url} did not answer {method} {path} in time") from None
        except httpx.TransportError as fault:
            raise ServerNotFound(f"no server answers at {self.url}: {fault}") from None


def find_server(home: Home, environ: Mapping[str, str]) -> ControlClient | None:
    """A client of the server that serves from this state folder now, or None when nobody does."""
    serving = read_lock(home)
    return None if serving is None else ControlClient(serving.control_url, environ.get(TOKEN_VARIABLE))


def require_server(home: Home, environ: Mapping[str, str]) -> ControlClient:
    """The same, but raises ServerNotFound, saying how to start one."""
    client = find_server(home, environ)
    if client is None:
        raise ServerNotFound(
            f"this needs a running server, and none serves from {home.root}. Start one: "
            f"driftgate serve --home {home.root}"
        )
    return client


def name_in_path(text: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    return quote(text, safe="")


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _as_raised(answer: httpx.Response) -> ServingError:
    body = _body(answer)
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return errors.Fault(f"the server answered {answer.status_code}: {str(body)[:200]}")
    kind = _classes().get(str(body.get("code")), errors.Fault)
    details = body.get("details")
    raised = kind(body["error"])
    raised.details = details if isinstance(details, dict) else {}
    return raised


def _classes() -> dict[str, type[ServingError]]:
    found: dict[str, type[ServingError]] = {}
    waiting: list[type[ServingError]] = [ServingError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found
