"""What the client does, once for the sync and the async one: each call is a generator that says what to send.

A flow yields `Send` or `Wait` and gets a response, or the error of having got none; its return value is the call's.
Invariant: nothing here does I/O, sleeps or looks at a clock of its own. Called by `driftgate.client`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import numpy as np

from driftgate.client_errors import ConnectionFailed, DeadlineExceeded, DriftgateError, ServerFailed, TensorMismatch
from driftgate.client_errors import kind_of as error_kind
from driftgate.client_formats import (
    MEDIA_TYPES,
    Array,
    Form,
    Tensor,
    arrow_body,
    body_of,
    fitted,
    frame_columns,
    tensors_of,
)
from driftgate.client_retry import Retry, wait_s

LABELS_A_CALL = 10_000  # what the control port takes at once
_MOST_DEADLINE_MS = 86_400_000  # what the data port takes

T = TypeVar("T")


class Response(Protocol):
    """What is used of `httpx.Response`."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


class Send(NamedTuple):
    """One request. timeout_s: for this try alone; None: the client's own."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float | None


class Wait(NamedTuple):
    """Nothing for this long."""

    seconds: float


Flow = Generator[Send | Wait, Any, T]


class NotAnswered(Exception):
    """Thrown into a flow by whoever sends, when there is no response."""

    def __init__(self, message: str, *, timed_out: bool = False, connected: bool = True) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.connected = connected  # False: the server never saw the request


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One declared input or output. A size of -1 is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `answer["name"]` is an output's array."""

    outputs: Mapping[str, Array]
    model: str
    version: str
    role: str  # why this version answered: champion, canary, direct …
    request_id: str  # the key under which labels are sent later
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of outputs that have some

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each row of the request.

        An output of one number a row is a column of its name; of several, a column each, named by its classes or
        `name[0]`, `name[1]` … Raises ValueError when the outputs have no common rows.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        for name, array in self.outputs.items():
            if array.ndim == 0:
                raise ValueError(f'output "{name}" is a single value, not rows')
            if array.ndim == 1:
                columns[name] = array
                continue
            rows = array.reshape(len(array), int(np.prod(array.shape[1:])))
            if rows.shape[1] == 1:
                columns[name] = rows[:, 0]
                continue
            classes = json.loads(self.parameters.get(name, {}).get("classes", "null"))
            for at in range(rows.shape[1]):
                columns[f"{name}[{classes[at] if classes else at}]"] = rows[:, at]
        return pd.DataFrame(columns)


class Flows:
    """The calls of one client, and what it remembers: the metadata of models that it has asked for."""

    def __init__(
        self, url: str, control_url: str | None, token: str | None, form: Form, retry: Retry, now_s: Callable[[], float]
    ) -> None:
        self._url = url.rstrip("/")
        self._control_url = None if control_url is None else control_url.rstrip("/")
        self._token = token
        self._form = form
        self._retry = retry
        self._now_s = now_s
        self._known: dict[str, ModelMetadata] = {}

    def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | str | None,
        outputs: Sequence[str] | None,
        request_id: str | None,
        routing_key: str | None,
        deadline_s: float | None,
        parameters: Mapping[str, Any] | None,
        form: Form | None,
    ) -> Flow[Answer]:
        """One prediction."""
        started_s = self._now_s()
        path = _model_path(model, version)
        asked: dict[str, Any] = {}
        if outputs is not None:
            asked["outputs"] = [{"name": name} for name in outputs]
        if parameters is not None:
            asked["parameters"] = dict(parameters)
        is_frame = hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")
        chosen: Form = form or ("arrow" if is_frame else self._form)
        if is_frame and chosen == "arrow":
            body = arrow_body(frame_columns(inputs), asked)
        else:
            metadata = self._known.get(path)
            if metadata is None:
                metadata = yield from self.metadata(model, version, deadline_s, started_s)
            body = body_of(chosen, _tensors(inputs, metadata, is_frame=is_frame), asked)
        headers = {"content-type": MEDIA_TYPES[chosen], "accept": MEDIA_TYPES[chosen]}
        if request_id is not None:
            headers["x-request-id"] = request_id
        if routing_key is not None:
            headers["x-routing-key"] = routing_key
        try:
            response = yield from self._exchange(
                "POST", f"{self._url}{path}/infer", headers, body, deadline_s, started_s
            )
        except TensorMismatch:
            self._known.pop(path, None)  # a version with other inputs may have been promoted
            raise
        tensors, about = tensors_of(response.headers.get("content-type", ""), response.content)
        return Answer(
            outputs={tensor.name: tensor.array for tensor in tensors},
            model=str(about.get("model_name", model)),
            version=response.headers.get("x-driftgate-version", str(about.get("model_version", ""))),
            role=response.headers.get("x-driftgate-role", ""),
            request_id=response.headers.get("x-request-id", ""),
            parameters={tensor.name: tensor.parameters for tensor in tensors if tensor.parameters},
        )

    def metadata(
        self, model: str, version: int | str | None, deadline_s: float | None = None, started_s: float | None = None
    ) -> Flow[ModelMetadata]:
        """What a model takes and gives, asked anew and remembered."""
        path = _model_path(model, version)
        since_s = self._now_s() if started_s is None else started_s
        response = yield from self._exchange("GET", self._url + path, {}, None, deadline_s, since_s)
        said = _json(response)
        try:
            inputs, outputs = (tuple(_tensor_metadata(item) for item in said[side]) for side in ("inputs", "outputs"))
            found = ModelMetadata(said["name"], tuple(said["versions"]), said.get("platform", ""), inputs, outputs)
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailed(f"the model's metadata cannot be read: {error!r}", code="unreadable_answer") from None
        self._known[path] = found
        return found

    def is_ready(self, model: str | None, version: int | str | None) -> Flow[bool]:
        """Whether the server, or a model, would answer now. Asked once."""
        path = "/v2/health/ready" if model is None else _model_path(model, version) + "/ready"
        try:
            yield from self._exchange("GET", self._url + path, {}, None, None, self._now_s(), retry=Retry(attempts=1))
        except DriftgateError:
            return False
        return True

    def feedback(self, model: str, labels: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Flow[dict[str, int]]:
        """What was right, by request id → how many labels had which fate, summed over the calls it took."""
        if self._control_url is None:
            raise ValueError("feedback goes to the control port: give the client control_url")
        items = [_label(item) for item in (labels.items() if isinstance(labels, Mapping) else labels)]
        total: dict[str, int] = {}
        for first in range(0, len(items), LABELS_A_CALL):
            body = json.dumps({"labels": items[first : first + LABELS_A_CALL]}).encode()
            headers = {"content-type": "application/json", "idempotency-key": uuid.uuid4().hex}
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token}"
            url = f"{self._control_url}/api/v1/models/{quote(model, safe='')}/feedback"
            response = yield from self._exchange("POST", url, headers, body, None, self._now_s())
            for fate, count in _json(response).items():
                total[fate] = total.get(fate, 0) + count
        return total

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float | None,
        started_s: float,
        retry: Retry | None = None,
    ) -> Flow[Response]:
        """One answered request, tried again by the policy. The deadline holds for all tries together."""
        policy, tried = retry or self._retry, 0
        while True:
            elapsed_s = self._now_s() - started_s
            left_s = None if deadline_s is None else deadline_s - elapsed_s
            if left_s is not None and left_s <= 0:
                raise DeadlineExceeded(f"not answered within {deadline_s:g} s", code="deadline_exceeded")
            sent = {"accept-encoding": "identity", **headers}  # packing numbers costs more than sending them
            if left_s is not None:
                sent["x-deadline-ms"] = str(max(1, int(min(left_s * 1000, _MOST_DEADLINE_MS))))
            tried += 1
            try:
                response: Response = yield Send(method, url, sent, body, left_s)
            except NotAnswered as fault:
                error = _not_answered(fault, url, deadline_s)
            else:
                if response.status_code < 300:
                    return response
                error = _refused(response)
            elapsed_s = self._now_s() - started_s
            left_s = None if deadline_s is None else deadline_s - elapsed_s
            pause_s = wait_s(policy, error, tried, elapsed_s, left_s)
            if pause_s is None:
                raise error
            yield Wait(pause_s)


def _model_path(model: str, version: int | str | None) -> str:
    path = "/v2/models/" + quote(model, safe="")
    return path if version is None else f"{path}/versions/{quote(str(version), safe='')}"


def _tensor_metadata(said: Mapping[str, Any]) -> TensorMetadata:
    return TensorMetadata(said["name"], said["datatype"], tuple(said["shape"]), said.get("parameters") or {})


def _tensors(inputs: Any, metadata: ModelMetadata, *, is_frame: bool) -> list[Tensor]:
    """What the caller gave, as the model wants it. Raises ValueError."""
    declared = metadata.inputs
    if is_frame:
        names = [str(name) for name in inputs.columns]
        if set(names) >= {one.name for one in declared}:
            inputs = {str(name): inputs[name].to_numpy() for name in inputs.columns}
        else:
            inputs = inputs.to_numpy()  # the columns of the model's one matrix, in order
    if not isinstance(inputs, Mapping):
        if len(declared) != 1:
            told = ", ".join(one.name for one in declared)
            raise ValueError(f"{metadata.name} has {len(declared)} inputs ({told}): give a dict")
        inputs = {declared[0].name: inputs}
    unknown = [name for name in inputs if name not in {one.name for one in declared}]
    if unknown and not is_frame:
        raise ValueError(f"{metadata.name} has no input {unknown[0]!r}, only {', '.join(one.name for one in declared)}")
    tensors = []
    for one in declared:
        if one.name not in inputs:
            raise ValueError(f"{metadata.name} wants input {one.name!r} too")
        tensor = fitted(one.name, one.datatype, inputs[one.name])
        if tensor.array.ndim == 1 and len(one.shape) == 2 and one.shape[1] in (1, -1) and one.shape[0] == -1:
            tensor = Tensor(one.name, one.datatype, tensor.array.reshape(-1, 1))
        tensors.append(tensor)
    return tensors


def _label(item: Any) -> dict[str, Any]:
    """One label as the control port takes it; from a mapping, (request id, value or values)."""
    if isinstance(item, Mapping):
        return dict(item)
    request_id, values = item
    plain = values.tolist() if hasattr(values, "tolist") else values
    return {"request_id": request_id, "values": plain if isinstance(plain, list) else [plain]}


def _json(response: Response) -> dict[str, Any]:
    try:
        said = json.loads(response.content)
        if isinstance(said, dict):
            return said
    except ValueError:
        pass
    raise ServerFailed("the answer is not a JSON object", status=response.status_code, code="unreadable_answer")


def _refused(response: Response) -> DriftgateError:
    status, request_id = response.status_code, response.headers.get("x-request-id", "")
    try:
        said = json.loads(response.content)
        message, code, details = said["error"], str(said["code"]), said.get("details")
    except (ValueError, KeyError, TypeError):
        text = response.content[:200].decode("utf-8", "replace")
        message, code, details = f"the server answered {status}: {text}", "", None
    after = response.headers.get("retry-after", "")
    return error_kind(status, code)(
        str(message),
        status=status,
        code=code,
        details=details if isinstance(details, dict) else None,
        request_id=request_id,
        retry_after_s=float(after) if after.isdecimal() and len(after) < 10 else None,
    )


def _not_answered(fault: NotAnswered, url: str, deadline_s: float | None) -> DriftgateError:
    if fault.timed_out and deadline_s is not None:
        return DeadlineExceeded(f"not answered within {deadline_s:g} s", code="deadline_exceeded")
    code = "not_connected" if not fault.connected else "timed_out" if fault.timed_out else "connection_broken"
    return ConnectionFailed(f"{url}: {fault}", code=code)
