"""What a call of `driftgate.client` can raise. Standard library only.

DriftgateError               status, code, details, request_id: as the server told them
├─ RequestRefused            the request cannot be answered as it is (4xx)
│   ├─ TensorMismatch        a tensor differs from what the model wants
│   └─ NotFound              no such model or version (404)
├─ ServerUnavailable         not now: 429, 503, or nobody answered
│   ├─ ConnectionFailed      nobody answered; status is 0
│   └─ DeadlineExceeded      the deadline passed, here or at the server (504)
└─ ServerFailed              the model or the server failed (5xx), or the answer cannot be read
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DriftgateError(Exception):
    """Base of all. `code` is for programs (`model_not_found`); `message` is for people."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        details: Mapping[str, Any] | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.details = dict(details or {})
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class RequestRefused(DriftgateError):
    """The request cannot be answered as it is."""


class TensorMismatch(RequestRefused):
    """A tensor differs from what the model wants."""


class NotFound(RequestRefused):
    """No such model or version."""


class ServerUnavailable(DriftgateError):
    """Not now; `retry_after_s` says when to try again, if the server said so."""


class ConnectionFailed(ServerUnavailable):
    """Nobody answered, or the connection broke before the whole answer was there."""


class DeadlineExceeded(ServerUnavailable):
    """The deadline passed, here or at the server."""


class ServerFailed(DriftgateError):
    """The model or the server failed, or its answer cannot be read."""


def kind_of(status: int, code: str) -> type[DriftgateError]:
    """The class for an answer of this status and code.

    >>> kind_of(404, "model_not_found").__name__
    'NotFound'
    """
    if status in (429, 503):
        return ServerUnavailable
    if status == 504:
        return DeadlineExceeded
    if status == 404:
        return NotFound
    if status >= 500:
        return ServerFailed
    return TensorMismatch if code == "tensor_mismatch" else RequestRefused
