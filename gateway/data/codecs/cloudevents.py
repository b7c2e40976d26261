"""CloudEvents 1.0 around any JSON request, in and out, as KServe's servers take and give them.

A binary event has its attributes in `ce-*` headers and the request as its body; a structured one is a JSON object of
type application/cloudevents+json that holds the request as `data`. The answer is an event of the same mode, of type
`io.kserve.inference.response` and source `io.kserve.inference.<model>`. Errors are answered as everywhere, not as
events. Called by `Doors`, for the routes of V1 and V2.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.data.codecs import json_body
from gateway.data.codecs.call import Answer, Call, Codec, Door, Headers, media_type
from gateway.data.codecs.v2 import Writer
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest

STRUCTURED = "application/cloudevents+json"
TYPE, SOURCE = "io.kserve.inference.response", "io.kserve.inference."
_REQUIRED = ("specversion", "id", "source", "type")
_VERSIONS = ("1.0", "0.3")
_HEADER = b"ce-specversion"


class EventCall(Call):
    """A request that came as an event and is answered as one."""

    __slots__ = ("_inner", "_is_structured", "id", "is_text", "timeout_us")

    def __init__(self, inner: Call, is_structured: bool) -> None:
        self._inner = inner
        self._is_structured = is_structured
        self.id = inner.id
        self.is_text = inner.is_text
        self.timeout_us = inner.timeout_us

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> Answer:
        """The body of a 200, and the event's attributes."""
        answer = self._inner.write(writer, outputs, rows)
        body = answer.body if isinstance(answer, Answer) else answer
        attributes = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": SOURCE + writer.servable.model,
            "type": TYPE,
            "time": datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
        }
        if not self._is_structured:
            own = answer.headers if isinstance(answer, Answer) else ((b"content-type", b"application/json"),)
            return Answer(body, (*own, *((f"ce-{name}".encode(), text.encode()) for name, text in attributes.items())))
        if not isinstance(answer, Answer):
            event = {**attributes, "datacontenttype": "application/json", "data": orjson.Fragment(body)}
            return Answer(orjson.dumps(event), ((b"content-type", STRUCTURED.encode()),))
        others = dict(answer.headers)  # JSON and binary data, whose other headers stay beside the event
        kind = others.pop(b"content-type").decode("latin-1")
        event = {**attributes, "datacontenttype": kind, "data_base64": base64.b64encode(body).decode()}
        return Answer(orjson.dumps(event), ((b"content-type", STRUCTURED.encode()), *others.items()))


def also(door: Door) -> Door:
    """The same door for requests that come as events, too."""
    structured = _structured(door.json)

    def choose(headers: Headers) -> Codec:
        if media_type(headers) == STRUCTURED:
            return structured
        codec = door.choose(headers)
        return _binary(codec) if _HEADER in headers else codec

    return Door(door.json, choose)


def _binary(codec: Codec) -> Codec:
    def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[Sequence[Tensor], Call]:
        _check({name: headers.get(f"ce-{name}".encode(), b"").decode("latin-1") for name in _REQUIRED})
        feeds, call = codec.read(body, headers, servable, limits)
        return feeds, EventCall(call, is_structured=False)

    prepare = codec.prepare
    if prepare is None:
        return Codec(codec.protocol, read)

    async def prepare_event(body: bytes, headers: Headers, limits: LimitSettings) -> Codec:
        return _binary(await prepare(body, headers, limits))

    return Codec(codec.protocol, read, prepare_event)


def _structured(codec: Codec) -> Codec:
    def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[Sequence[Tensor], Call]:
        event = json_body.load(body, limits, nan=not servable.refuses_nonfinite)
        if type(event) is not dict:
            raise MalformedRequest("a CloudEvent must be a JSON object")
        _check(event)
        feeds, call = codec.read(_data(event, nan=not servable.refuses_nonfinite), headers, servable, limits)
        return feeds, EventCall(call, is_structured=True)

    return Codec(codec.protocol, read)


def _check(attributes: Mapping[str, Any]) -> None:
    for name in _REQUIRED:
        value = attributes.get(name)
        if type(value) is not str or not value:
            raise MalformedRequest(f"a CloudEvent must have the attribute {name!r}, a text that is not empty")
    if attributes["specversion"] not in _VERSIONS:
        raise MalformedRequest(f"CloudEvents of version {attributes['specversion'][:20]!r} are not read; send 1.0")


def _data(event: dict[str, Any], *, nan: bool) -> bytes:
    """The request that a structured event holds."""
    if "data_base64" in event:
        text = event["data_base64"]
        try:
            return base64.b64decode(text if type(text) is str else "?", validate=True)
        except (binascii.Error, ValueError):
            raise MalformedRequest('"data_base64" of the CloudEvent is not base64') from None
    if "data" not in event:
        raise MalformedRequest('the CloudEvent has no "data"')
    data = event["data"]
    if type(data) is str:
        return data.encode()
    return json.dumps(data).encode() if nan else orjson.dumps(data)  # orjson makes null of NaN and Infinity
