"""The control port's OpenAPI document, made from the operations themselves, and the page at `/`.."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway import api_docs
from gateway.control.operation import Operation

PREFIX = "/api/v1"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;"
    "vertical-align:top}code{font:13px ui-monospace,monospace}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
)


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the control port."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = _describe(operation)
    paths[PREFIX + "/events"] = {"get": _EVENTS}
    for path, (summary, kind, statuses) in _PLAIN.items():
        paths[path] = {"get": _plain(path, summary, kind, statuses)}
    responses = {
        name: {"description": text, "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
        for name, text in _REFUSALS.values()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Driftgate control port", "version": version, "description": _INTRODUCTION},
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {"Error": api_docs.ERROR_SCHEMA, "Object": {"type": "object"}},
            "responses": responses,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_JSON = "application/json"
_INTRODUCTION = (
    "For operators. On an address other than loopback every call of `/api/v1` needs a token: Authorize. "
    "A call that is sent from this page is done: nothing here is a rehearsal."
)
_TAGS = {
    "models": "What is registered, and which version answers.",
    "rollouts": "A candidate on its way, or back.",
    "watching": "Drift, shadow runs, labels, events.",
    "server": "Health, metrics and this page.",
}
_REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("Malformed", "The request cannot be read."),
    401: ("NotPermitted", "Credentials are missing, not known, or without the right."),
    403: ("ForbiddenOrigin", "A page of another site may not change state here."),
    404: ("Unknown", "No such model, version, alias or rollout."),
    409: ("Conflict", "Not possible in the present state."),
    413: ("TooLarge", "The body is larger than the limit."),
    415: ("UnsupportedMedia", "State changes need application/json."),
    421: ("Misdirected", "The Host header names another server."),
    422: ("Rejected", "A plan, an option or a model that cannot be used."),
    500: ("Failed", "The server failed; its log says how."),
    503: ("Unavailable", "Not possible just now; Retry-After says when to come back."),
    504: ("DeadlineExceeded", "It took too long."),
}
_READING = (400, 401, 404, 421, 500, 503)
_CHANGING = tuple(_REFUSALS)
_EVENT_QUERY = {"after": "ids above this", "limit": "at most this many, 1 to 1000", "model": "of this model only"}
# Path: summary, media type, statuses of the answer's own shape beside 200.
_PLAIN: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "/healthz": ("200 while the process answers.", _JSON, ()),
    "/readyz": ("200 while the controller's loop turns.", _JSON, (503,)),
    "/metrics": ("Prometheus, the whole host.", "text/plain", ()),
    "/openapi.json": ("This document.", _JSON, ()),
    "/docs": ("This document for people.", "text/html", ()),
    "/docs/{name}": ("The page's own files.", "text/css", ()),
    "/": ("What is served now, and what happened last.", "text/html", ()),
}


def _refused(statuses: Iterable[int]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"} for status in statuses}


def _answers(kinds: Iterable[str], statuses: Iterable[int] = (200,)) -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/Object"}}
    content: dict[str, Any] = {kind: schema if kind == _JSON else {"schema": {}} for kind in kinds}
    return {
        str(status): {"description": "Done." if status < 400 else "Not now.", "content": content} for status in statuses
    }


def _plain(path: str, summary: str, kind: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    described: dict[str, Any] = {"tags": ["server"], "summary": summary, "operationId": path.strip("/") or "console"}
    kinds: tuple[str, ...] = (kind,)
    if path == "/metrics":
        kinds = (kind, "application/openmetrics-text")
    if path == "/docs/{name}":
        kinds = api_docs.ASSET_KINDS
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    refused = () if kind == _JSON and path != "/openapi.json" else (401, 404, 421, 500) if path != "/docs" else (421,)
    described["responses"] = {**_answers(kinds, (200, *statuses)), **_refused(refused)}
    return described


def _describe(operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [_path(name) for name in names] + [_query(name, text) for name, text in operation.query.items()]
    done = (200, 201) if operation.created else (200,)
    described: dict[str, Any] = {
        "tags": [_tag(operation.path)],
        "summary": operation.summary,
        "operationId": operation.name,
        "parameters": parameters,
        "responses": {**_answers((_JSON,), done), **_refused(_CHANGING if operation.changes_state else _READING)},
    }
    if operation.changes_state:
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": _KEY})
        properties = {name: {"description": text} for name, text in operation.fields.items()}
        schema = {"type": "object", "properties": properties}
        described["requestBody"] = {"content": {_JSON: {"schema": schema, "example": {}}}}
    return described


def _tag(path: str) -> str:
    words = path.split("/")
    if "rollout" in words or "rollback" in words:
        return "rollouts"
    return "watching" if words[-1] in ("drift", "shadow", "feedback") else "models"


_KEY = {"type": "string", "pattern": "^[!-~]{1,128}$"}


def _path(name: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1} if name == "version" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}


_EVENTS = {
    "tags": ["watching"],
    "summary": "What happened, oldest first; a stream when text/event-stream is accepted.",
    "operationId": "events",
    "parameters": [_query(name, text) for name, text in _EVENT_QUERY.items()],
    "responses": {**_answers((_JSON, "text/event-stream")), **_refused(_READING)},
}


def console_page(models: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], data_url: str) -> str:
    """What is served now, and what happened last."""
    lines = []
    for model in models:
        aliases = ", ".join(f"{name} → {version}" for name, version in model["aliases"].items()) or "none"
        rollout = model["rollout"]["state"] if model["rollout"] else "none"
        lines.append(
            f"<tr><td>{html.escape(model['model'])}</td><td>{model['version_count']}</td>"
            f"<td>{html.escape(aliases)}</td><td>{html.escape(rollout)}</td></tr>"
        )
    told = "".join(
        f"<tr><td>{html.escape(event['time'][:19].replace('T', ' '))}</td><td>{html.escape(event['model'] or '')}</td>"
        f"<td>{html.escape(_said(event))}</td></tr>"
        for event in reversed(events)
    )
    return _page(
        "Driftgate",
        f"<p>Predictions go to <code>{html.escape(data_url)}</code>. <a href='/docs'>API</a> · "
        "<a href='/metrics'>metrics</a></p><h2>Models</h2><table><tr><th>Model<th>Versions<th>Aliases<th>Rollout</tr>"
        f"{''.join(lines)}</table><h2>Lately</h2><table><tr><th>Time (UTC)<th>Model<th>What happened</tr>"
        f"{told}</table>",
    )


def _said(event: Mapping[str, Any]) -> str:
    """An event's own sentence, or its type with the version that it is about."""
    data = event["data"]
    about = f" → version {event['version']}" if event["version"] else ""
    return str(data.get("sentence") or f"{event['type']} {data.get('alias', '')}".rstrip() + about)


def _page(title: str, body: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{body}</html>"
    )
