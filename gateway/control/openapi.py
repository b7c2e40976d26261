"""`/openapi.json`, `/docs` and the page at `/`, all made from the operations themselves. No scripts, no other hosts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.control.operation import Operation

PREFIX = "/api/v1"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;"
    "vertical-align:top}code{font:13px ui-monospace,monospace}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
)


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the control API."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = _describe(operation)
    events = {
        "summary": "What happened, oldest first; a stream when text/event-stream is accepted.",
        "operationId": "events",
        "parameters": [_query(name, text) for name, text in _EVENT_QUERY.items()],
        "responses": _RESPONSES,
    }
    paths[PREFIX + "/events"] = {"get": events}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Driftgate control API", "version": version},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


_EVENT_QUERY = {"after": "ids above this", "limit": "at most this many, 1 to 1000", "model": "of this model only"}
_ERROR = {
    "type": "object",
    "required": ["error", "code", "details", "request_id"],
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string"},
        "details": {"type": "object"},
        "request_id": {"type": "string"},
    },
}
_RESPONSES: Mapping[str, Any] = {
    "200": {"description": "Done.", "content": {"application/json": {"schema": {"type": "object"}}}},
    "default": {
        "description": "Refused or failed.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    },
}


def _describe(operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names] + [
        _query(name, text) for name, text in operation.query.items()
    ]
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.name,
        "parameters": parameters,
        "responses": _RESPONSES,
    }
    if operation.changes_state:
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"}})
        properties = {name: {"description": text} for name, text in operation.fields.items()}
        schema = {"type": "object", "properties": properties}
        described["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return described


def _query(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}


def docs_page(operations: Sequence[Operation]) -> str:
    """The API for people."""
    rows = "".join(
        f"<tr><td><code>{operation.method}</code></td><td><code>{html.escape(PREFIX + operation.path)}</code></td>"
        f"<td>{html.escape(operation.summary)}{_fields(operation)}</td></tr>"
        for operation in operations
    )
    return _page(
        "Control API",
        f"<p>The same as <a href='/openapi.json'>openapi.json</a>. State changes need "
        f"<code>Content-Type: application/json</code>.</p><table>{rows}</table>",
    )


def _fields(operation: Operation) -> str:
    given = {**operation.query, **operation.fields}
    return "".join(f"<br><code>{html.escape(name)}</code> {html.escape(text)}" for name, text in given.items())


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
        f"<tr><td>{html.escape(event['time'][:19])}</td><td>{html.escape(event['model'] or '')}</td>"
        f"<td>{html.escape(str(event['data'].get('sentence') or event['type']))}</td></tr>"
        for event in reversed(events)
    )
    return _page(
        "Driftgate",
        f"<p>Predictions go to <code>{html.escape(data_url)}</code>. <a href='/docs'>API</a> · "
        "<a href='/metrics'>metrics</a></p><h2>Models</h2><table><tr><th>Model<th>Versions<th>Aliases<th>Rollout</tr>"
        f"{''.join(lines)}</table><h2>Lately</h2><table>{told}</table>",
    )


def _page(title: str, body: str) -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1>{body}</html>"
    )
