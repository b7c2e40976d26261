"""A client of Driftgate's data port: numpy arrays, pandas DataFrames or dicts in, arrays (or a DataFrame) out.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.infer("churn", {"x": rows}, routing_key="user-7")
        answer["probabilities"], answer.version, answer.request_id

`AsyncClient` has the same calls to be awaited. Both keep a pool of connections, and are used in a `with`. Every error
of a call is a `DriftgateError`. `docs/protocols/client.md` is the manual. Importing this loads numpy and the standard
library; httpx comes with the first client, msgpack, pyarrow and pandas with the first call that needs them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from driftgate.client_errors import (
    ConnectionFailed,
    DeadlineExceeded,
    DriftgateError,
    NotFound,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    TensorMismatch,
)
from driftgate.client_flows import (
    Answer,
    Flow,
    Flows,
    ModelMetadata,
    NotAnswered,
    Response,
    Send,
    TensorMetadata,
    Wait,
)
from driftgate.client_formats import Form
from driftgate.client_retry import Retry

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DriftgateError",
    "ModelMetadata",
    "NotFound",
    "RequestRefused",
    "Retry",
    "ServerFailed",
    "ServerUnavailable",
    "TensorMetadata",
    "TensorMismatch",
]

_CONNECT_S = 5.0
T = TypeVar("T")
Labels = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Client:
    """A client that waits. Threads may share one.

    url: the data port. control_url, token: the control port, for `feedback`. format: how arrays travel, unless a call
    says otherwise ("msgpack", "arrow" or "json"; a DataFrame travels as Arrow). timeout_s: for connecting, sending and
    reading, each (`deadline_s` of a call bounds all of it). retry: when to try again. More options are httpx's own
    (`limits`, `verify`, `transport` …); proxies of the environment are not used unless `trust_env=True` is given.
    """

    def __init__(
        self,
        url: str,
        *,
        control_url: str | None = None,
        token: str | None = None,
        format: Form = "msgpack",
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        **httpx_options: Any,
    ) -> None:
        import httpx

        self._flows = Flows(url, control_url, token, format, retry or Retry(), time.monotonic)
        self._timeout_s = timeout_s
        self._http = httpx.Client(**{"trust_env": False, "timeout": _timeout(timeout_s), **httpx_options})

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | str | None = None,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        routing_key: str | None = None,
        deadline_s: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        format: Form | None = None,
    ) -> Answer:
        """One prediction.

        inputs: a dict of arrays or lists by input name, an array for a model of one input, or a DataFrame whose columns
        are inputs or the columns of the model's one matrix. Numbers are fitted to the model's types, which are asked
        for once a model. outputs: the names wanted; None: all. request_id: the key for labels, 1 to 128 visible ASCII
        characters. deadline_s: for everything, tries and waits included. Raises DriftgateError; ValueError for inputs
        that cannot be sent.
        """
        return self._run(
            self._flows.infer(
                model,
                inputs,
                version=version,
                outputs=outputs,
                request_id=request_id,
                routing_key=routing_key,
                deadline_s=deadline_s,
                parameters=parameters,
                form=format,
            )
        )

    def metadata(self, model: str, version: int | str | None = None) -> ModelMetadata:
        """What a model takes and gives, asked anew. Raises DriftgateError."""
        return self._run(self._flows.metadata(model, version))

    def is_ready(self, model: str | None = None, version: int | str | None = None) -> bool:
        """Whether the server, or this model, would answer now. Never tries twice, never raises DriftgateError."""
        return self._run(self._flows.is_ready(model, version))

    def feedback(self, model: str, labels: Labels) -> dict[str, int]:
        """Say what was right: `{request_id: value or one value a row}`, or the control port's own label objects.

        Returns how many labels were joined, waiting, ambiguous and expired. Raises DriftgateError; ValueError without
        `control_url`.
        """
        return self._run(self._flows.feedback(model, labels))

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    response: Response = self._http.request(**_request(step, self._timeout_s))
                except Exception as fault:
                    step = flow.throw(_not_answered(fault))
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncClient:
    """The same for asyncio. Options and calls are those of `Client`."""

    def __init__(
        self,
        url: str,
        *,
        control_url: str | None = None,
        token: str | None = None,
        format: Form = "msgpack",
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        **httpx_options: Any,
    ) -> None:
        import httpx

        self._flows = Flows(url, control_url, token, format, retry or Retry(), time.monotonic)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(**{"trust_env": False, "timeout": _timeout(timeout_s), **httpx_options})

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | str | None = None,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        routing_key: str | None = None,
        deadline_s: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        format: Form | None = None,
    ) -> Answer:
        """As `Client.infer`."""
        return await self._run(
            self._flows.infer(
                model,
                inputs,
                version=version,
                outputs=outputs,
                request_id=request_id,
                routing_key=routing_key,
                deadline_s=deadline_s,
                parameters=parameters,
                form=format,
            )
        )

    async def metadata(self, model: str, version: int | str | None = None) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._run(self._flows.metadata(model, version))

    async def is_ready(self, model: str | None = None, version: int | str | None = None) -> bool:
        """As `Client.is_ready`."""
        return await self._run(self._flows.is_ready(model, version))

    async def feedback(self, model: str, labels: Labels) -> dict[str, int]:
        """As `Client.feedback`."""
        return await self._run(self._flows.feedback(model, labels))

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    response: Response = await self._http.request(**_request(step, self._timeout_s))
                except Exception as fault:
                    step = flow.throw(_not_answered(fault))
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result


def _timeout(seconds: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))


def _request(step: Send, timeout_s: float) -> dict[str, Any]:
    request: dict[str, Any] = {"method": step.method, "url": step.url, "headers": step.headers, "content": step.body}
    if step.timeout_s is not None:
        request["timeout"] = _timeout(min(step.timeout_s, timeout_s))
    return request


def _not_answered(fault: Exception) -> Exception:
    """What a flow is told instead of a response; anything but a failure of the connection stays what it is."""
    import httpx

    if not isinstance(fault, httpx.RequestError):
        return fault
    return NotAnswered(
        str(fault) or type(fault).__name__,
        timed_out=isinstance(fault, httpx.TimeoutException),
        connected=not isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout),
    )
