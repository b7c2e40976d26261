"""Which codecs answer which path of the data port, and which model is meant where a path names none.

Paths that name a model are remembered, because callers repeat them; the memory is bounded, because callers choose them.
A path without one (`/invocations`, `/score`, `gateway.predict_route`) is answered by the model that a header names,
else by `gateway.default_model`, else by the only model that is served. A path of ours keeps its meaning whatever
`predict_route` says. Called by `DataApp` for every POST; everything else is Starlette's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.data.codecs import cloudevents, mlflow, v1, v2_door
from gateway.data.codecs.call import Door, Headers
from gateway.settings import GatewaySettings
from registry.errors import MalformedRequest, ModelNotFound

_V2_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_V1_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/(?:versions|labels)/([^/:]+))?:predict")
# The same, as Starlette writes paths: it refuses every method but POST on them.
NAMED_PATHS = (
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
    "/v1/models/{model}:predict",
    "/v1/models/{model}/versions/{version}:predict",
    "/v1/models/{model}/labels/{label}:predict",
)
INVOCATIONS, SCORE = "/invocations", "/score"
_NOT_RAW = frozenset("%?#")  # a path that holds one was written in another way
_REMEMBERED_PATHS, _REMEMBERED_LENGTH = 4096, 256
_NAMES_TOLD = 100

_MODEL = b"x-driftgate-model"
_REQUEST_ID = b"x-request-id"
_TARGET_MODEL = b"x-amzn-sagemaker-target-model"
_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
# Names under which platforms pass on the caller's own id of a request.
_REQUEST_IDS = (b"x-amzn-sagemaker-inference-id", b"x-ms-client-request-id", b"x-ms-request-id")
_ATTRIBUTE = re.compile(rb"\s*(x-[a-z0-9-]{1,62})=([!-+\--~]{1,256})\s*", re.IGNORECASE)

Extra = list[tuple[bytes, bytes]]


class Target(NamedTuple):
    """Who answers a path."""

    door: Door
    model: str
    version: str | None


class Doors:
    """Path to door, model and version."""

    def __init__(self, gateway: GatewaySettings, models: Callable[[], Sequence[str]]) -> None:
        self.known: dict[str, Target] = {}
        self.known_raw: dict[bytes, Target] = {}  # the same by the bytes of a request line, where they are alike
        self._models = models
        self._default = gateway.default_model
        self._v2 = cloudevents.also(v2_door.DOOR)
        self._v1 = cloudevents.also(v1.DOOR)
        self._vertex = cloudevents.also(v1.VERTEX)
        self.nameless_paths = frozenset((INVOCATIONS, SCORE, *vertex_paths(gateway.predict_route)))

    def named(self, path: str) -> Target | None:
        """Who answers a path that names its model; None: nobody here. Remembered in `known`."""
        match, door = _V2_INFER.fullmatch(path), self._v2
        if match is None:
            match, door = _V1_PREDICT.fullmatch(path), self._v1
        if match is None:
            return None
        target = Target(door, match[1], match[2])
        if len(path) <= _REMEMBERED_LENGTH:
            if len(self.known) >= _REMEMBERED_PATHS:
                self.known.clear()
                self.known_raw.clear()
            self.known[path] = target
            if path.isascii() and not _NOT_RAW.intersection(path):
                self.known_raw[path.encode()] = target
        return target

    def nameless(self, path: str, headers: Headers) -> Door:
        """The codecs of a path that names no model, one of `nameless_paths`."""
        if path == INVOCATIONS:
            return mlflow.invocations(headers)
        return mlflow.AZURE if path == SCORE else self._vertex

    def model(self, headers: Headers) -> str:
        """The model meant by a request whose path names none. Raises MalformedRequest, telling the names."""
        named = headers.get(_MODEL)
        if named is None and _TARGET_MODEL in headers:
            # The target of a multi-model endpoint is an artefact's path; a model here has its name.
            named = headers[_TARGET_MODEL].rpartition(b"/")[2].removesuffix(b".tar.gz")
        if named is not None:
            return named.decode("latin-1")
        if self._default:
            return self._default
        names = self._models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise ModelNotFound("no model is served here")
        told = ", ".join(names[:_NAMES_TOLD])
        raise MalformedRequest(
            f"this path names no model and {len(names)} are served: name one in the header x-driftgate-model, or set "
            f"gateway.default_model; there are {told}",
            models=list(names[:_NAMES_TOLD]),
        )


def vertex_paths(predict_route: str) -> tuple[str, ...]:
    """The path that `predict_route` adds: none where it is empty or a path that names a model.

    >>> vertex_paths("/predict"), vertex_paths("/v1/models/m:predict")
    (('/predict',), ())
    """
    if not predict_route or _V2_INFER.fullmatch(predict_route) or _V1_PREDICT.fullmatch(predict_route):
        return ()
    return (predict_route,)


def platform_headers(headers: Headers) -> Extra:
    """Headers of ours that a platform lets a caller send only inside its own.

    SageMaker passes on `X-Amzn-SageMaker-Custom-Attributes`, in which `x-name=value` pairs may stand, separated by
    commas, and its inference id; Azure Machine Learning passes on its ids of a request. A header that is there wins.

    >>> platform_headers({b"x-amzn-sagemaker-custom-attributes": b"x-routing-key=u7, x-deadline-ms=50"})
    [(b'x-routing-key', b'u7'), (b'x-deadline-ms', b'50')]
    """
    extra: Extra = []
    if _ATTRIBUTES in headers:
        for pair in headers[_ATTRIBUTES][:1024].split(b","):
            match = _ATTRIBUTE.fullmatch(pair)
            if match is not None:
                extra.append((match[1].lower(), match[2]))
    given = next((headers[name] for name in _REQUEST_IDS if name in headers), None)
    if given is not None:
        extra.insert(0, (_REQUEST_ID, given))
    return [(name, value) for name, value in extra if name not in headers]
