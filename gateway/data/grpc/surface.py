"""What else the service offers: health, metadata, configuration, statistics, the repository. None of it need be fast.

Each method is a function from its request to the response as a dict in protobuf's JSON form, which is also what REST
answers with: the two say the same because they ask the same functions. What is not offered says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from gateway.data.app import Health
from gateway.data.codecs import v2
from gateway.data.grpc.service import Context, abort, headers_of, logger
from gateway.data.identity import RequestIds
from registry.errors import InternalError, MalformedRequest, NotReady, ServingError, Unimplemented, VersionNotFound

Method = Callable[[bytes, Context], Awaitable[bytes]]
Answer = Callable[[Any], Mapping[str, Any]]


def unary(answer: Answer, request_class: Any, response_class: Any, ids: RequestIds) -> Method:
    """A method of the service from a plain function. What the function raises becomes the call's status."""

    async def method(body: bytes, context: Context) -> bytes:
        identity = ids.identify(headers_of(context).get(b"x-request-id")).decode()
        told = (("x-request-id", identity),)
        try:
            response = ParseDict(answer(request_class.FromString(body)), response_class(), ignore_unknown_fields=True)
        except ServingError as error:
            problem = error
        except DecodeError as error:
            problem = MalformedRequest(f"the message cannot be read: {error}")
        except Exception as error:
            logger.exception("a question could not be answered")
            problem = InternalError(f"{type(error).__name__} while answering; the log has the trace")
        else:
            context.set_trailing_metadata(told)
            return bytes(response.SerializeToString())
        await abort(context, problem, *told)
        raise AssertionError("abort raises")

    return method


def not_offered(method: str) -> Answer:
    """A method of Triton's that has no meaning here."""

    def answer(_request: Any) -> Mapping[str, Any]:
        raise Unimplemented(f"{method} is not offered by this server")

    return answer


def asked_version(text: str) -> int | None:
    """The version that a question names. Raises MalformedRequest."""
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9:
        raise MalformedRequest(f"a version is a number, got {text!r}")
    return int(text)


def answers(health: Health) -> dict[str, Answer]:
    """The methods of the service that are offered, by name. Those that infer are not among them."""
    fleet = health.fleet

    def metadata(request: Any) -> Mapping[str, Any]:
        version = asked_version(request.version)
        entry = fleet.entry(request.name)
        servable = fleet.servable(request.name, version)
        if servable is None:
            if version is not None and version not in entry.aspired:
                raise VersionNotFound(f"model {request.name!r} serves no version {version}", model=request.name)
            raise NotReady(f"model {request.name!r} is not ready here", model=request.name)
        versions = [version] if version is not None else sorted(entry.aspired)
        return v2.model_metadata(request.name, versions, servable.manifest.inputs, servable.manifest.outputs)

    def ready(request: Any) -> Mapping[str, Any]:
        servable = fleet.servable(request.name, asked_version(request.version))
        return {"ready": servable is not None and not health.is_draining()}

    return {
        "ServerLive": lambda _: {"live": health.is_alive()},
        "ServerReady": lambda _: {"ready": health.is_ready()},
        "ServerMetadata": lambda _: {"name": "driftgate", "version": health.version, "extensions": []},
        "ModelMetadata": metadata,
        "ModelReady": ready,
    }
