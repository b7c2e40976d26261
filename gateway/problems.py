"""Errors as HTTP and gRPC see them: the one table from error class to status, and the one body shape."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from registry import errors
from registry.errors import InternalError, MalformedRequest, MethodNotAllowed, RouteNotFound, ServingError

# The nearest class in an error's ancestry decides; a test lists leaves that only the root would catch.
STATUS: dict[type[ServingError], int] = {
    errors.CallerError: 400,
    errors.PayloadTooLarge: 413,
    errors.HeadersTooLarge: 431,
    errors.SlowRequest: 408,
    errors.UnsupportedMedia: 415,
    errors.MethodNotAllowed: 405,
    errors.Unimplemented: 501,
    errors.NotEnabled: 403,
    errors.Cancelled: 499,
    errors.ForbiddenOrigin: 403,
    errors.MisdirectedRequest: 421,
    errors.NotPermitted: 401,
    errors.InvalidPlan: 422,
    errors.InvalidSetting: 422,
    errors.ArtifactRejected: 422,
    errors.UnknownName: 404,
    errors.Conflict: 409,
    errors.Unavailable: 503,
    errors.OverQuota: 429,
    errors.DeadlineExceeded: 504,
    errors.Fault: 500,
    ServingError: 500,
}

# The names of gRPC's status codes. Two words of HTTP may be one of gRPC's; a status that is not here is INTERNAL.
GRPC_STATUS: dict[int, str] = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    421: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def status_of(error: ServingError) -> int:
    """The HTTP status of an error: that of the nearest class in its ancestry."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def grpc_status_of(error: ServingError) -> str:
    """The name of an error's gRPC status."""
    return GRPC_STATUS.get(status_of(error), "INTERNAL")


def retry_after_s(error: ServingError) -> int | None:
    """Whole seconds for a Retry-After header: always there with 429 and 503, else None."""
    if status_of(error) not in (429, 503):
        return None
    return max(1, round(error.retry_after_s or 1.0))


def body_of(error: ServingError, request_id: str) -> dict[str, Any]:
    """The JSON body of every error on every route (Open Inference clients read `error` as a string)."""
    return {"error": error.message, "code": error.code, "details": error.details, "request_id": request_id}


def problem_of(error: Exception, method: str, path: str) -> ServingError:
    """What was raised while a request was answered, by us or by the framework, as one of ours."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return MethodNotAllowed(f"{method} is not possible on {path}")
        if error.status_code == 404:
            return RouteNotFound(f"no route {path}")
        return MalformedRequest(str(error.detail))
    return InternalError(f"{type(error).__name__} while answering; the log has the trace")
