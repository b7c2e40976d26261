"""The data port's routes in words, as OpenAPI wants them: one line a route. A test compares them with the app's own.

Only words live here, and the schemas that they name; what one model takes is added by `openapi.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.api_docs import ASSET_KINDS, ERROR_SCHEMA
from registry.onnx import NUMPY_DTYPES

JSON = "application/json"
# What the V2 infer route reads and writes beside JSON.
V2_BINARY = ("application/octet-stream", "application/msgpack", "application/vnd.apache.arrow.stream",
             "application/vnd.apache.arrow.file")  # fmt: skip
TABLES = ("text/csv", "application/jsonlines", "application/vnd.apache.parquet")
EVENTS = ("application/cloudevents+json",)

GET_FAILS = (400, 404, 503)
CALL_FAILS = (400, 403, 404, 409, 413, 500, 503, 504)
INFER_FAILS = (400, 404, 408, 413, 415, 429, 500, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    tag: str
    summary: str
    answer: str = "Object"  # the schema of a 200 in JSON
    body: str = ""  # the schema of a JSON request; "": no body
    optional_body: bool = False
    media: tuple[str, ...] = ()  # further media types, of request and answer
    fails: tuple[int, ...] = GET_FAILS  # statuses of the one error shape
    says: tuple[int, ...] = ()  # statuses beside 200 that have the answer's own shape
    headers: tuple[str, ...] = ()  # parameters of `components`

    @property
    def is_inference(self) -> bool:
        """Whether a model answers it."""
        return self.fails == INFER_FAILS

    @property
    def name(self) -> str:
        """The operation's id; a parameter has a hyphen before it, with which no model's name begins."""
        return re.sub(r"[/:]", "_", self.method.lower() + re.sub(r"{(\w+)}", r"-\1", self.path))


def _get(path: str, tag: str, summary: str, answer: str = "Object", **more: Any) -> Operation:
    return Operation(method="GET", path=path, tag=tag, summary=summary, answer=answer, **more)


def _infer(path: str, tag: str, summary: str, body: str, answer: str, **more: Any) -> Operation:
    headers = ("RequestId", "RoutingKey", "DeadlineMs", *more.pop("headers", ()))
    return Operation(
        method="POST", path=path, tag=tag, summary=summary, body=body, answer=answer, fails=INFER_FAILS,
        headers=headers, **more,
    )  # fmt: skip


def _post(path: str, summary: str, body: str, answer: str = "Object") -> Operation:
    return Operation(
        method="POST", path=path, tag=TRITON, summary=summary, body=body, optional_body=True, answer=answer,
        fails=CALL_FAILS,
    )  # fmt: skip


def _absent(*paths: str) -> list[Operation]:
    return [
        Operation(method=method, path=path, tag=ABSENT, summary="Always refused: it is told so.", fails=(501,))
        for path in paths
        for method in ("GET", "POST")
    ]


V2, V1, TRITON, HEALTH, PAGES = "Open Inference V2", "KServe V1", "Triton", "Health", "Documentation"
CONTAINERS, ABSENT = "MLflow and containers", "Not offered"
_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"

OPERATIONS: tuple[Operation, ...] = (
    _infer(_MODEL + "/infer", V2, "Predict with whichever version the split chooses.", "V2Request", "V2Answer",
           media=V2_BINARY),
    _infer(_VERSION + "/infer", V2, "Predict with this version; its role is `direct`.", "V2Request", "V2Answer",
           media=V2_BINARY),
    _get(_MODEL, V2, "Names, datatypes and shapes of a model's inputs and outputs; its versions.", "V2Model"),
    _get(_VERSION, V2, "The same of one version.", "V2Model"),
    _get(_MODEL + "/ready", V2, "200 only if the model's champion can answer here.", "Ready", says=(503,)),
    _get(_VERSION + "/ready", V2, "The same of one version.", "Ready", says=(503,)),
    _get("/v2", V2, "The server: its name, version and extensions.", "V2Server", fails=()),
    _get("/v2/health/live", HEALTH, "As `/healthz`.", fails=(), says=(503,)),
    _get("/v2/health/ready", HEALTH, "As `/readyz`.", fails=(), says=(503,)),
    _get("/v2/", V2, "As `/v2`.", "V2Server", fails=()),
    _get(_MODEL + "/config", TRITON, "A model's configuration in Triton's form."),
    _get(_VERSION + "/config", TRITON, "The same of one version."),
    _get("/v2/models/stats", TRITON, "Counts and times of every model that is ready, of the whole host.", "Stats"),
    _get(_MODEL + "/stats", TRITON, "The same of one model's versions.", "Stats"),
    _get(_VERSION + "/stats", TRITON, "The same of one version.", "Stats"),
    _post("/v2/repository/index", "Every model and version, with its state.", "IndexRequest", "Index"),
    _post("/v2/repository/models/{model}/load", "Let a model be served, where the data port may.", "LoadRequest"),
    _post("/v2/repository/models/{model}/unload", "Stop serving a model, where the data port may.", "LoadRequest"),
    _infer("/v1/models/{model}:predict", V1, "Predict with whichever version the split chooses.", "V1Request",
           "V1Answer", media=EVENTS),
    _infer("/v1/models/{model}/versions/{version}:predict", V1, "Predict with this version; its role is `direct`.",
           "V1Request", "V1Answer", media=EVENTS),
    _infer("/v1/models/{model}/labels/{label}:predict", V1, "Predict with the version of this alias; its role is "
           "`direct`.", "V1Request", "V1Answer", media=EVENTS),
    _get("/", V1, "Whether the event loop turns, as KServe's V1 clients ask.", fails=(), says=(503,)),
    _get("/v1/models", V1, "Names of all models.", "V1Models", fails=()),
    _get("/v1/models/{model}", V1, "200 only if the model's champion can answer here.", "Ready", says=(503,)),
    _get("/v1/models/{model}/versions/{version}", V1, "The same of one version.", "Ready", says=(503,)),
    _get("/v1/models/{model}/metadata", V1, "Inputs and outputs in TensorFlow Serving's form."),
    _get("/v1/models/{model}/versions/{version}/metadata", V1, "The same of one version."),
    _infer("/invocations", CONTAINERS, "MLflow and SageMaker: predict with the model that a header names, the default "
           "model, or the only one.", "TableRequest", "TableAnswer", media=TABLES, headers=("ModelName",)),
    _infer("/score", CONTAINERS, "Azure ML: as `/invocations`.", "TableRequest", "Any", media=TABLES,
           headers=("ModelName",)),
    _get("/ping", CONTAINERS, "200 when the default model, or the only one, can answer here.", "Ready", fails=(503,)),
    _get("/health", CONTAINERS, "As `/ping`.", "Ready", fails=(503,)),
    _get("/version", CONTAINERS, "This server's version, as text.", "", media=("text/plain",), fails=()),
    _get("/healthz", HEALTH, "200 while the event loop turns.", fails=(), says=(503,)),
    _get("/readyz", HEALTH, "200 when this worker may get traffic; the body shows the route table and the "
         "controller's lease.", fails=(), says=(503,)),
    _get("/openapi.json", PAGES, "This document.", fails=()),
    _get("/docs", PAGES, "This document for people.", "", media=("text/html",), fails=()),
    _get("/docs/{name}", PAGES, "The page's own files.", "", media=ASSET_KINDS, fails=(404,)),
    *_absent("/v2/systemsharedmemory/{rest}", "/v2/cudasharedmemory/{rest}", "/v2/trace/setting",
             _MODEL + "/trace/setting", "/v2/logging", _MODEL + "/generate", _MODEL + "/generate_stream",
             _VERSION + "/generate", _VERSION + "/generate_stream"),
)  # fmt: skip

TAGS = {
    V2: "The Open Inference Protocol. The infer routes also read and write binary tensors, MessagePack and Arrow, "
    "by `Content-Type` and `Accept`.",
    V1: "KServe V1 and TensorFlow Serving.",
    CONTAINERS: "What MLflow, SageMaker and Azure ML ask of a container. The paths name no model.",
    TRITON: "What Triton's clients, dashboards and perf_analyzer ask beside inference. What is served is changed from "
    "here only where a setting allows it.",
    HEALTH: "For load balancers and orchestrators.",
    PAGES: "Served from this machine alone.",
    ABSENT: "Parts of Triton's protocol that are not offered here.",
}

FAILURES: Mapping[int, tuple[str, str]] = {
    400: ("Malformed", "The request cannot be read, or is not what the model takes."),
    401: ("NotPermitted", "Credentials are missing or not known."),
    403: ("Forbidden", "Not allowed here."),
    404: ("Unknown", "No such model, version or route."),
    405: ("MethodNotAllowed", "The route has other methods."),
    408: ("Slow", "The request took too long to arrive."),
    409: ("Conflict", "Not possible in the present state."),
    413: ("TooLarge", "The body is larger than the limit, as sent or decompressed."),
    415: ("UnsupportedMedia", "This content type or encoding is not read here."),
    429: ("OverQuota", "Over quota; Retry-After says when to come back."),
    500: ("Failed", "The model failed, or the server did."),
    501: ("Unimplemented", "A part of the protocol that is not offered."),
    503: ("Unavailable", "Overloaded, not ready or draining; Retry-After says when to come back."),
    504: ("DeadlineExceeded", "The deadline passed."),
}

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}
_OBJECT = {"type": "object"}


def _object(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "object", "properties": properties}
    return {**described, "required": list(required)} if required else described


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}


_SPEC = _object(("name", "datatype", "shape"), name=_TEXT, datatype=_TEXT, shape=_list({"type": "integer"}))
_TENSOR = _object(
    ("name", "shape", "datatype"),
    name=_TEXT,
    shape=_list(_WHOLE),
    datatype={"type": "string", "enum": sorted({*NUMPY_DTYPES, "BF16"})},
    data={"type": "array", "description": "nested or flat, row by row", "items": {}},
    parameters=_OBJECT,
)
_PREDICTIONS = "a list with an item a row, for `instances`; a tensor or tensors by name, for `inputs`"

SCHEMAS: Mapping[str, dict[str, Any]] = {
    "Error": ERROR_SCHEMA,
    "Object": _OBJECT,
    "Ready": _object(("ready",), name=_TEXT, ready={"type": "boolean"}),
    "Tensor": _TENSOR,
    "V2Request": _object(
        ("inputs",),
        id=_TEXT,
        inputs=_list(_ref("schemas", "Tensor")),
        outputs=_list(_object(("name",), name=_TEXT, parameters=_OBJECT)),
        parameters=_OBJECT,
    ),
    "V2Answer": _object(
        ("model_name", "outputs"),
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        outputs=_list(_ref("schemas", "Tensor")),
        parameters=_OBJECT,
    ),
    "V2Model": _object(
        ("name", "versions", "inputs", "outputs"),
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_SPEC),
        outputs=_list(_SPEC),
    ),
    "V2Server": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "V1Request": {
        **_object(
            instances={"type": "array", "items": {}, "minItems": 1, "description": "one item a row"},
            inputs={"description": "a tensor, or tensors by name"},
        ),
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "V1Answer": _object(predictions={"description": _PREDICTIONS}, outputs={"description": _PREDICTIONS}),
    "TableRequest": {
        **_object(
            dataframe_split=_object(("data",), columns=_list({}), data=_list(_list({}))),
            dataframe_records=_list(_OBJECT),
            instances=_list({}),
            inputs={"description": "a tensor, or tensors by name"},
            params=_OBJECT,
        ),
        "description": "exactly one of the first four; `params` change nothing",
    },
    "TableAnswer": _object(("predictions",), predictions={"description": _PREDICTIONS}),
    "Any": {},
    "Stats": _object(("model_stats",), model_stats=_list(_OBJECT)),
    "IndexRequest": _object(ready={"type": "boolean", "description": "only what is ready"}),
    "Index": _list(_object(("name", "version", "state"), name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
    "LoadRequest": _object(parameters=_OBJECT),
    "V1Models": _object(("models",), models=_list(_TEXT)),
}

PARAMETERS: Mapping[str, dict[str, Any]] = {
    "rest": {"name": "rest", "in": "path", "required": True, "schema": _TEXT},
    "name": {"name": "name", "in": "path", "required": True, "schema": _TEXT},
    "model": {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
    },
    "version": {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    },
    "label": {"name": "label", "in": "path", "required": True, "schema": _TEXT},
    "ModelName": {
        "name": "x-driftgate-model",
        "in": "header",
        "description": "the model meant, where the path names none",
        "schema": {"type": "string", "pattern": "^[!-~]{1,100}$"},
    },
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "1 to 128 visible ASCII characters; echoed, and the key of labels",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "RoutingKey": {
        "name": "x-routing-key",
        "in": "header",
        "description": "the same key meets the same version while a rollout runs",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "DeadlineMs": {
        "name": "x-deadline-ms",
        "in": "header",
        "description": "how long the caller waits",
        "schema": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
    },
}
_ANSWER_HEADERS = {
    "x-request-id": {"schema": _TEXT},
    "x-driftgate-version": {"schema": _TEXT, "description": "the version that answered"},
    "x-driftgate-role": {"schema": _TEXT, "description": "champion, canary, direct or fallback"},
    "x-driftgate-fallback": {
        "schema": _TEXT,
        "description": "constant: no model's answer; the version's options say it",
    },
    "x-driftgate-cache": {"schema": _TEXT, "description": "hit: a kept answer, of a version that keeps answers"},
}


def describe(operation: Operation) -> dict[str, Any]:
    """An operation object of OpenAPI 3.1."""
    names = re.findall(r"{(\w+)}", operation.path)
    answer: dict[str, Any] = {"description": "Done.", "content": content(operation.answer, operation.media)}
    if operation.is_inference:
        answer["headers"] = _ANSWER_HEADERS
    told = (
        {}
        if operation.fails == (501,)
        else {200: answer, **{s: {**answer, "description": "Not now."} for s in operation.says}}
    )
    astray = (404, 405) if names else ()  # a parameter with a slash or a colon in it makes another path
    failing = {s: _ref("responses", FAILURES[s][0]) for s in (*operation.fails, *astray) if s not in told}
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary.replace("`", ""),
        "operationId": operation.name,
        "parameters": [_ref("parameters", name) for name in (*names, *operation.headers)],
        "responses": {str(status): body for status, body in sorted({**told, **failing}.items())},
    }
    if operation.body:
        described["requestBody"] = {
            "required": not operation.optional_body,
            "content": content(operation.body, operation.media),
        }
    return described


def content(schema: str, media: Sequence[str] = ()) -> dict[str, Any]:
    """Media types: JSON of this schema, and those that carry bytes."""
    told = {JSON: {"schema": _ref("schemas", schema)}} if schema else {}
    return {**told, **{kind: {"schema": {}} for kind in media}}


def components() -> dict[str, Any]:
    """What the operations refer to."""
    error = {JSON: {"schema": _ref("schemas", "Error")}}
    return {
        "schemas": dict(SCHEMAS),
        "parameters": dict(PARAMETERS),
        "responses": {name: {"description": text, "content": error} for name, text in FAILURES.values()},
    }
