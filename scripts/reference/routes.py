"""docs/reference/routes.md: every route of both ports. Routes are compared with the words here, so none is missing."""

from __future__ import annotations

from typing import Any, cast

from starlette.routing import Route

from gateway.control import openapi
from gateway.control.api import build
from gateway.control.resources import Resources, operations
from gateway.data.app import Health, others
from gateway.data.fleet import Fleet
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

# Inference, which does not go through Starlette (gateway/data/app.py), and what each other route of the data port says.
INFERENCE = {
    "/v2/models/{model}/infer": "Open Inference V2: predict with whichever version the split chooses.",
    "/v2/models/{model}/versions/{version}/infer": "The same with this version; its role is `direct`.",
    "/v1/models/{model}:predict": "KServe V1: predict with whichever version the split chooses.",
    "/v1/models/{model}/versions/{version}:predict": "The same with this version; its role is `direct`.",
}
DATA = {
    "/healthz": "200 while the event loop turns.",
    "/readyz": "200 when this worker may get traffic; the body shows the route table and the controller's lease.",
    "/v2": "Open Inference server metadata.",
    "/v2/health/live": "As `/healthz`.",
    "/v2/health/ready": "As `/readyz`.",
    "/v2/models/{model}": "Names, datatypes and shapes of a model's inputs and outputs; its versions.",
    "/v2/models/{model}/versions/{version}": "The same of one version.",
    "/v2/models/{model}/ready": "200 only if the model's champion can answer here.",
    "/v2/models/{model}/versions/{version}/ready": "The same of one version.",
    "/v1/models": "Names of all models.",
    "/v1/models/{model}": "As `/v2/models/{model}/ready`.",
}
PLAIN = {
    "/healthz": "200 while the process answers.",
    "/readyz": "200 while the controller's loop turns; the body says how it does.",
    "/metrics": "Prometheus, the whole host: [metrics.md](metrics.md).",
    "/openapi.json": "This part of the page for programs.",
    "/docs": "This part of the page for people.",
    "/": "What is served now, and what happened last.",
    "/api/v1/events": "What happened, oldest first; server-sent events when `text/event-stream` is accepted, "
    "after `Last-Event-ID`.",
}


def page() -> str:
    """The page."""
    data = {_path(route) for route in others(_no_health()).routes}
    with fresh_controller() as controller:
        listed = operations(Resources(controller, _register))
        control = {_path(route) for route in build(controller, _register, version="").routes}
    _same("data port", data, set(DATA))
    _same("control port", control, set(PLAIN) | {openapi.PREFIX + operation.path for operation in listed})
    rows = [["POST", f"`{path}`", text] for path, text in INFERENCE.items()]
    rows += [["GET", f"`{path}`", text] for path, text in DATA.items()]
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
    return cast(Route, route).path


def _no_health() -> Health:
    return Health(cast(Fleet, None), lambda: True, lambda: False, "")


def _register(*_: Any) -> Any:
    raise RuntimeError("a documented route is not called")
