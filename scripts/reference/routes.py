"""docs/reference/routes.md: every route of both ports. Routes are compared with the words here, so none is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from starlette.routing import Route

from gateway.control import openapi
from gateway.control.api import build
from gateway.control.resources import Resources, operations
from gateway.data.app import Health, others
from gateway.data.fleet import Fleet
from gateway.data.operations import OPERATIONS
from gateway.data.repository import Repository
from gateway.data.triton import Triton
from scripts.reference.fresh import fresh_controller
from scripts.reference.table import table

INTRODUCTION = """# Routes

## Data port

For applications: inference and health, nothing that changes state. A request may carry `x-request-id`, `x-routing-key`,
`x-deadline-ms` and `traceparent`; an answer carries `x-request-id`, and from a model `x-driftgate-version` and
`x-driftgate-role`. Errors: [errors.md](errors.md).

"""

CONTROL = """
## Control port

For operators, scripts and Prometheus. JSON in and out; the same as a machine reads it: `/openapi.json`. Changing state
needs `Content-Type: application/json`, a `Host` and an `Origin` that are ours, and on an address other than loopback a
bearer token of a principal with the right. Every POST takes `Idempotency-Key`; lists take `limit` and `after`.

"""

PLAIN = {
    "/healthz": "200 while the process answers.",
    "/readyz": "200 while the controller's loop turns; the body says how it does.",
    "/metrics": "Prometheus, the whole host: [metrics.md](metrics.md).",
    "/openapi.json": "This part of the page for programs.",
    "/docs": "This part of the page for people: calls can be sent from it.",
    "/docs/{name}": "The page's own files.",
    "/": "What is served now, and what happened last.",
    "/api/v1/events": "What happened, oldest first; server-sent events when `text/event-stream` is accepted, "
    "after `Last-Event-ID`.",
}
# Inference does not go through Starlette (gateway/data/app.py).
INFERENCE = {operation.path for operation in OPERATIONS if operation.is_inference}


def page() -> str:
    """The page."""
    data = {_path(route) for route in others(_no_health(), _no_triton()).routes}
    with fresh_controller() as controller:
        listed = operations(Resources(controller, _register, _register))
        control = {_path(route) for route in build(controller, _register, _register, version="").routes}
    _same("data port", data | INFERENCE, {operation.path for operation in OPERATIONS})
    _same("control port", control, set(PLAIN) | {openapi.PREFIX + operation.path for operation in listed})
    rows = [[operation.method, f"`{operation.path}`", operation.summary] for operation in OPERATIONS]
    calls = [["GET", f"`{path}`", "", text] for path, text in PLAIN.items()]
    for operation in listed:
        given = {**operation.query, **operation.fields}
        fields = "; ".join(f"`{name}`: {text}" for name, text in given.items())
        calls.append([operation.method, f"`{openapi.PREFIX}{operation.path}`", fields, operation.summary])
    return (
        INTRODUCTION
        + table(["Method", "Path", "What it does"], rows)
        + CONTROL
        + table(["Method", "Path", "Query or body", "What it does"], calls)
    )


def _same(port: str, have: set[str], told: set[str]) -> None:
    if have != told:
        raise SystemExit(f"{port}: without words: {sorted(have - told)}; words for nothing: {sorted(told - have)}")


def _path(route: Any) -> str:
    return cast(Route, route).path.replace(":path}", "}")


def _no_health() -> Health:
    return Health(cast(Fleet, None), lambda: True, lambda: False, "")


def _no_triton() -> Triton:
    return Triton(cast(Fleet, None), Path(), cast(Repository, None), 1, "")


def _register(*_: Any) -> Any:
    raise RuntimeError("a documented route is not called")
