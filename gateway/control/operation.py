"""One call of the control API, from HTTP to a plain function and back. No handler sees a request, only a `Call`.

Invariant: every call passes the doorkeeper before its body is read, and every POST with an Idempotency-Key is done at
most once. Handlers are plain functions that run on a thread, so they may use the database and wait for a lock.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway import problems
from gateway.control.idempotency import Answer, Idempotency
from gateway.control.line import Line
from gateway.control.principal import Doorkeeper, Principal
from gateway.control.principal import Role as Right
from registry.errors import (
    Cancelled,
    MalformedRequest,
    PayloadTooLarge,
    StorageFailed,
)

BODY_BYTES = 4 * 1024 * 1024  # 10,000 labels of usual size are under 1 MB
MOST_ITEMS = 1000
_VISIBLE = frozenset(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler is given."""

    principal: Principal
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model that the path names."""
        return self.path["model"]

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdecimal() or len(text) > 18 or not low <= int(text) <= high:
            raise MalformedRequest(f"{name} must be a whole number from {low} to {high}, got {text[:40]!r}")
        return int(text)

    def time_ns(self, name: str) -> int | None:
        """A time of the query, RFC 3339, in wall nanoseconds."""
        text = self.query.get(name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
        except ValueError:
            raise MalformedRequest(f"{name} must be a time like 2026-01-31T12:00:00Z, got {text[:40]!r}") from None
        if moment.tzinfo is None:
            raise MalformedRequest(f"{name} needs a time zone, like 2026-01-31T12:00:00Z")
        return min(max(int(moment.timestamp() * 1_000_000) * 1000, 0), 2**63 - 1)  # what the database can hold

    def need(self, name: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        """A field of the body. Raises MalformedRequest when it is missing or of another type."""
        value = self.body.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise MalformedRequest(f"the body needs {name!r}, {wanted}")
        return value

    def text(self, name: str, most: int = 2000) -> str:
        """An optional text of the body."""
        value = self.body.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most:
            raise MalformedRequest(f"{name!r} must be a text of at most {most} characters")
        return value


Handler = Callable[[Call], Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the API: documentation and code in one place, so neither goes stale."""

    method: str
    path: str  # under /api/v1
    name: str
    summary: str
    handler: Handler
    right: Right = "viewer"
    fields: Mapping[str, str] = field(default_factory=dict)  # body: name → what it is
    query: Mapping[str, str] = field(default_factory=dict)
    created: bool = False  # answers 201 when the handler's object says "created": true
    waits: bool = False  # for seconds or minutes, on workers or on a process: on threads of their own

    @property
    def changes_state(self) -> bool:
        """Whether it needs an operator's rights and our own Host and Origin."""
        return self.method != "GET"


def page(items: list[dict[str, Any]], call: Call, key: str) -> dict[str, Any]:
    """A list after `?after=` of at most `?limit=`, with where to go on."""
    limit = call.number("limit", 100, 1, MOST_ITEMS)
    after = call.query.get("after")
    if after is not None:
        if after.isdecimal() and len(after) > 18:
            raise MalformedRequest(f"after must be the last item that you have, got {after[:40]!r}")
        names = [str(item[key]) for item in items]
        if after in names:
            items = items[names.index(after) + 1 :]
        elif after.isdecimal() and all(name.isdecimal() for name in names):
            items = [item for item in items if int(item[key]) > int(after)]
        else:
            items = [item for item in items if str(item[key]) > after]
    shown = items[:limit]
    return {"items": shown, "next": shown[-1][key] if len(items) > limit else None}


class Endpoint:
    """An operation on the wire."""

    def __init__(
        self,
        operation: Operation,
        door: Doorkeeper,
        idempotency: Idempotency,
        waiting: anyio.CapacityLimiter,
        reads: Line,
    ) -> None:
        self._operation = operation
        self._door = door
        self._idempotency = idempotency
        self._limiter = waiting if operation.waits else None
        self._reads = None if operation.waits or operation.changes_state else reads

    async def __call__(self, request: Request) -> Response:
        operation = self._operation
        principal = self._door.admit(request.headers, changes_state=operation.changes_state)
        principal.require(operation.right)
        raw = await read_body(request) if operation.changes_state else b""
        call = Call(principal, dict(request.path_params), dict(request.query_params), _parse(raw))
        key = request.headers.get("idempotency-key")
        if self._reads is not None:
            answer = await self._reads.run(request, lambda: self._answer(call, request, raw, key))
        else:
            answer = await anyio.to_thread.run_sync(self._answer, call, request, raw, key, limiter=self._limiter)
        headers = {"x-request-id": request_id(request)}
        if answer.repeated:
            headers["idempotency-replayed"] = "true"
        return Response(answer.body, answer.status, headers, "application/json")

    def _answer(self, call: Call, request: Request, raw: bytes, key: str | None) -> Answer:
        operation = self._operation

        def do() -> Answer:
            body = operation.handler(call)
            status = 201 if operation.created and isinstance(body, dict) and body.get("created") is True else 200
            return Answer(status, to_json(body))

        if key is None or not operation.changes_state:
            return do()
        digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + raw).hexdigest()
        return self._idempotency.once(call.principal.name, key, digest, do)


async def read_body(request: Request, most: int = BODY_BYTES) -> bytes:
    """The body, refused as soon as it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise PayloadTooLarge(f"the body has {int(length)} bytes; at most {most} are read here", limit=most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise PayloadTooLarge(f"the body is over {most} bytes", limit=most)
        parts.append(part)
    return b"".join(parts)


def _parse(raw: bytes) -> Mapping[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text, and no database takes it
    except UnicodeEncodeError:
        raise MalformedRequest("the body has half of a surrogate pair, which is no Unicode text") from None
    except (ValueError, RecursionError) as fault:
        raise MalformedRequest(f"the body is not JSON: {fault}") from None
    if not isinstance(body, dict):
        raise MalformedRequest(f"the body must be a JSON object, got {type(body).__name__}")
    return body


def to_json(body: Any) -> str:
    """JSON text in ASCII, so that any text can be sent; numbers that JSON has no word for become null."""
    return json.dumps(_finite(body), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def request_id(request: Request) -> str:
    """The caller's x-request-id when it can be one, else a new id."""
    offered = request.headers.get("x-request-id", "")
    if 0 < len(offered) <= 128 and all(ord(sign) in _VISIBLE for sign in offered):
        return offered
    return str(uuid.uuid4())


def storage_failed(request: Request, error: Exception) -> Response:
    """A disk that is full or broken is told; any other fault of the operating system is a bug, with a trace."""
    told = StorageFailed.of(error) if isinstance(error, OSError) else None
    if told is None:
        raise error
    return failed(request, told)


def failed(request: Request, error: Exception) -> Response:
    """Any error, in the one shape."""
    gone = Cancelled("the caller left before the body was complete") if isinstance(error, ClientDisconnect) else error
    problem = problems.problem_of(gone, request.method, request.url.path)
    identity = request_id(request)
    headers = {"x-request-id": identity}
    wait_s = problems.retry_after_s(problem)
    if wait_s is not None:
        headers["retry-after"] = str(wait_s)
    if problems.status_of(problem) == 401:
        headers["www-authenticate"] = "Bearer"
    if problems.status_of(problem) == 500:
        headers["connection"] = "close"  # the server drops the connection of a handler that raised
    body = to_json(problems.body_of(problem, identity))
    return Response(body, problems.status_of(problem), headers, "application/json")
