"""What else the service offers: health, metadata, configuration, statistics, the repository. None of it need be fast.

Each method is a function from its request to the response as a dict in protobuf's JSON form, which is also what REST
answers with: the two say the same because they ask the same functions. What is not offered says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from gateway.data.app import Health
from gateway.data.grpc.codec import scalars
from gateway.data.grpc.service import Context, abort, headers_of, logger
from gateway.data.identity import RequestIds
from gateway.data.triton import Triton
from registry.errors import InternalError, MalformedRequest, ServingError, Unimplemented

Method = Callable[[bytes, Context], Awaitable[bytes]]
Answer = Callable[[Any], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]


def unary(answer: Answer, request_class: Any, response_class: Any, ids: RequestIds) -> Method:
    """A method of the service from a plain function. What the function raises becomes the call's status."""

    async def method(body: bytes, context: Context) -> bytes:
        identity = ids.identify(headers_of(context).get(b"x-request-id")).decode()
        told = (("x-request-id", identity),)
        try:
            found = answer(request_class.FromString(body))
            found = await found if isawaitable(found) else found
            response = ParseDict(found, response_class(), ignore_unknown_fields=True)
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


def answers(health: Health, triton: Triton) -> dict[str, Answer]:
    """The methods of the service that are offered, by name. Those that infer are not among them."""
    repository = triton.repository

    def ready(request: Any) -> Mapping[str, Any]:
        is_ready = health.fleet.can_answer(request.name, asked_version(request.version))
        return {"ready": is_ready and not health.is_draining()}

    async def statistics(request: Any) -> Mapping[str, Any]:
        return await triton.statistics(request.name or None, asked_version(request.version))

    async def index(request: Any) -> Mapping[str, Any]:
        return {"models": await repository.index(request.ready)}

    async def load(request: Any) -> Mapping[str, Any]:
        await repository.load(request.model_name, scalars(request.parameters))
        return {}

    async def unload(request: Any) -> Mapping[str, Any]:
        await repository.unload(request.model_name, scalars(request.parameters))
        return {}

    return {
        "ServerLive": lambda _: {"live": health.is_alive()},
        "ServerReady": lambda _: {"ready": health.is_ready()},
        "ServerMetadata": lambda _: triton.server_metadata(),
        "ModelMetadata": lambda asked: triton.model_metadata(asked.name, asked_version(asked.version)),
        "ModelReady": ready,
        "ModelConfig": lambda asked: {"config": triton.config(asked.name, asked_version(asked.version))},
        "ModelStatistics": statistics,
        "RepositoryIndex": index,
        "RepositoryModelLoad": load,
        "RepositoryModelUnload": unload,
    }
