"""What MLflow, SageMaker, Vertex AI, Azure ML, KServe V1 and TensorFlow Serving ask of a server beside predictions.

Health in their words (Azure's liveness is `/`), and V1's models. `/ping` says whether a prediction can be answered: the
worker is ready, and so is the model that answers where a path names none, if there is such a model. Called once, by the
data port's app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.data import triton_http
from gateway.data.doors import INVOCATIONS, NAMED_PATHS, SCORE, vertex_paths
from gateway.data.fleet import Fleet
from gateway.settings import GatewaySettings
from registry.errors import ModelNotFound, NotReady, VersionNotFound
from registry.vocabulary import TensorSpec

if TYPE_CHECKING:
    from gateway.data.app import Health

Handler = Callable[[Request], Awaitable[Response]]

# TensorFlow's names of datatypes.
_TF = {
    "BOOL": "DT_BOOL", "INT8": "DT_INT8", "INT16": "DT_INT16", "INT32": "DT_INT32", "INT64": "DT_INT64",
    "UINT8": "DT_UINT8", "UINT16": "DT_UINT16", "UINT32": "DT_UINT32", "UINT64": "DT_UINT64", "FP16": "DT_HALF",
    "BF16": "DT_BFLOAT16", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING",
}  # fmt: skip


class PostOnly:
    """Refuses every other method on a path whose POST is answered before Starlette."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(405, headers={"Allow": "POST"})


def post_only() -> list[Route]:
    """Routes that refuse. They stand first, as `/v1/models/{model}` would match `m:predict` too."""
    return [Route(path, PostOnly()) for path in (*NAMED_PATHS, INVOCATIONS, SCORE)]


def routes(health: Health, gateway: GatewaySettings) -> list[Route]:
    """The routes of all these contracts."""
    ping = _ping(health, gateway.default_model)
    fleet = health.fleet

    async def version(_: Request) -> Response:
        return Response(health.version, media_type="text/plain")

    async def models(_: Request) -> Response:
        return _json({"models": fleet.models()})

    async def status(request: Request) -> Response:
        model, number = triton_http.asked(request)
        entry = fleet.entry(model)
        if number is not None and number not in entry.aspired:
            raise VersionNotFound(f"model {model!r} serves no version {number}", model=model)
        is_ready = fleet.can_answer(model, number) and not health.is_draining()
        shown = sorted(entry.aspired, reverse=True) if number is None else [number]
        states = [_version_status(fleet, model, each) for each in shown]
        return _json({"name": model, "ready": is_ready, "model_version_status": states}, 200 if is_ready else 503)

    async def metadata(request: Request) -> Response:
        model, number = triton_http.asked(request)
        entry = fleet.entry(model)
        servable = fleet.servable(model, number)
        if servable is None:
            if number is not None and number not in entry.aspired:
                raise VersionNotFound(f"model {model!r} serves no version {number}", model=model)
            raise NotReady(f"model {model!r} is not ready here", model=model)
        manifest = servable.manifest
        signature = {
            "inputs": {spec.name: _tensor_info(spec) for spec in manifest.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in manifest.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        return _json(
            {
                "model_spec": {"name": model, "signature_name": "", "version": str(servable.version)},
                "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
            }
        )

    # The platform's own path stands first, so that it means what the platform means by it.
    own = [Route(gateway.health_route, ping)] if gateway.health_route else []
    v1 = "/v1/models/{model}"
    return [
        *own,
        Route("/ping", ping),
        Route("/health", ping),
        Route("/version", version),
        Route("/v1/models", models),
        Route(v1, status),
        Route(v1 + "/versions/{version}", status),
        Route(v1 + "/metadata", metadata),
        Route(v1 + "/versions/{version}/metadata", metadata),
        *(Route(path, PostOnly()) for path in vertex_paths(gateway.predict_route)),
    ]


def _ping(health: Health, default_model: str) -> Handler:
    fleet = health.fleet

    async def ping(_: Request) -> Response:
        if not health.is_ready():
            raise NotReady("draining" if health.is_draining() else "not every model has been loaded yet")
        names = [default_model] if default_model else fleet.models()
        if len(names) == 1 and not _is_ready(fleet, names[0]):
            raise NotReady(f"model {names[0]!r} is not ready here", model=names[0])
        return _json({"ready": True})

    return ping


def _is_ready(fleet: Fleet, model: str) -> bool:
    try:
        return fleet.can_answer(model, None)
    except ModelNotFound:
        return False


def _version_status(fleet: Fleet, model: str, version: int) -> dict[str, Any]:
    """One version as TensorFlow Serving tells it."""
    is_ready = fleet.servable(model, version) is not None
    return {
        "version": str(version),
        "state": "AVAILABLE" if is_ready else "LOADING",
        "status": {"error_code": "OK", "error_message": ""},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    sizes = [{"size": str(-1 if n is None else n), "name": ""} for n in spec.shape or ()]
    return {
        "dtype": _TF[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": spec.shape is None},
        "name": spec.name,
    }


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
