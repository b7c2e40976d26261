"""`/invocations`: the forms of MLflow's scoring server, which SageMaker's containers share, and `/score` of Azure ML.

Source of the forms: MLflow's "Deploy model locally" and its scoring server's rules: a JSON object with exactly one of
`dataframe_split`, `dataframe_records`, `instances`, `inputs`, beside which `params` may stand; or CSV, or Parquet. From
SageMaker: JSON Lines, a bare list of rows, CSV without a header, and an answer in CSV or JSON Lines where `accept` asks
for it. From Azure: `input_data` (answered without a wrapper), and `Inputs` (answered with `Results`). Columns find
their inputs as `frame.py` says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from gateway.data.codecs import tables, v1
from gateway.data.codecs.call import Answer, Call, Codec, Door, Headers, Reader, media_type, quality
from gateway.data.codecs.frame import Frame, NumberFrame, RowFrame, feeds_of
from gateway.data.codecs.json_numbers import Numbers
from gateway.data.codecs.v2 import Writer
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, UnsupportedMedia

CSV, LINES, PARQUET = "text/csv", "application/jsonlines", "application/vnd.apache.parquet"
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
AZURE_FORMS = ("input_data", "Inputs", "data", *FORMS)
_JSON = frozenset(("application/json", "application/octet-stream", "application/x-www-form-urlencoded", ""))
_LINES = frozenset((LINES, "application/x-jsonlines", "application/x-ndjson"))
_WRITTEN = {"application/json": "", CSV: CSV, **dict.fromkeys(_LINES, LINES)}
_PARQUET = frozenset((PARQUET, "application/x-parquet"))
_SCALARS = frozenset((str, int, float, bool, type(None)))


class Predictions(Call):
    """A request that is answered with `predictions`, in the form that `accept` asks for."""

    __slots__ = ("form", "key")
    is_text = True

    def __init__(self, form: str = "", key: str | None = "predictions") -> None:
        self.form = form
        self.key = key

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes | Answer:
        """The body of a 200."""
        found = v1.predictions(writer.servable, outputs, rows)
        if self.form:
            lines = found if isinstance(found, list) else [found]
            text = _csv(lines) if self.form == CSV else b"".join(orjson.dumps(line) + b"\n" for line in lines)
            return Answer(text, ((b"content-type", f"{self.form}; charset=utf-8".encode()),))
        return orjson.dumps(found if self.key is None else {self.key: found})


PREDICTIONS = {form: Predictions(form) for form in ("", CSV, LINES)}


def _csv(lines: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_flat(line) for line in lines)
    return text.getvalue().encode()


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict) and value.keys() != {"b64"}:
        return [item for part in value.values() for item in _flat(part)]
    if isinstance(value, list):
        return [item for part in value for item in _flat(part)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, float):
        return ["" if value != value else repr(value)]
    return [value["b64"] if isinstance(value, dict) else value]


def _answer(headers: Headers) -> Predictions:
    """The form written here that `accept` likes best, the first of equals; JSON where there is none."""
    if b"accept" not in headers:
        return PREDICTIONS[""]
    best, rank = "", 0.0
    for part in headers[b"accept"][:512].decode("latin-1").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        found = quality(parameters) if name in _WRITTEN else 0.0
        if found > rank:
            best, rank = _WRITTEN[name], found
    return PREDICTIONS[best]


# ---- JSON


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a JSON request, and how to answer it. Raises as `Codec.read` says."""
    document = v1.parsed(body, servable, limits)
    if type(document) is list:
        return v1.from_rows(document, servable, limits), _answer(headers)
    form, value = _form(document, FORMS)
    _check_params(document.get("params"))
    return _feeds(form, value, servable, limits), _answer(headers)


def read_azure(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """As `read`, for Azure Machine Learning's `/score`."""
    document = v1.parsed(body, servable, limits)
    if type(document) is list:
        return v1.from_rows(document, servable, limits), _BARE
    form, value = _form(document, AZURE_FORMS)
    _check_params(document.get("params"))
    if form == "Inputs" and type(value) is dict and value.keys() == {"data"}:
        value = value["data"]
    call = {"Inputs": _RESULTS, "input_data": _BARE, "data": _BARE}.get(form, PREDICTIONS[""])
    return _feeds(form, value, servable, limits), call


_BARE, _RESULTS = Predictions(key=None), Predictions(key="Results")


def _form(document: Any, forms: Sequence[str]) -> tuple[str, Any]:
    if type(document) is not dict:
        raise MalformedRequest(f"the body must be a JSON object with exactly one of {', '.join(forms)}")
    given = [name for name in document if name in forms]
    if len(given) != 1:
        got = ", ".join(name[:100] for name in list(document)[:10]) or "nothing"
        raise MalformedRequest(f"the body must have exactly one of {', '.join(forms)}; it has {got}")
    return given[0], document[given[0]]


def _check_params(params: Any) -> None:
    """Parameters are for models that have some, which ONNX models have not: scalars are taken and mean nothing."""
    if params is None:
        return
    if type(params) is not dict or any(type(value) not in _SCALARS for value in params.values()):
        raise MalformedRequest('"params" must be an object of scalars; they change nothing here')


def _feeds(form: str, value: Any, servable: Servable, limits: LimitSettings) -> list[Tensor]:
    if form == "dataframe_split" or (form == "input_data" and type(value) is dict and "data" in value):
        return feeds_of(_split(value), servable, limits)
    if form == "dataframe_records":
        return feeds_of(_records(value), servable, limits)
    if form == "inputs" or (form == "input_data" and type(value) is dict):
        if type(value) is dict and servable.slot_index.keys().isdisjoint(value):
            plain = {name: one.values() if type(one) is Numbers else one for name, one in value.items()}
            return feeds_of(_columns(plain), servable, limits)
        return v1.from_columns(value, servable, limits)
    return v1.from_rows(value, servable, limits)


def _split(value: Any) -> Frame:
    if type(value) is not dict or type(value.get("data")) not in (list, Numbers):
        raise MalformedRequest('"dataframe_split" must be an object with "columns" and "data"')
    names = value.get("columns")
    if names is not None and (type(names) is not list or any(type(name) not in (str, int) for name in names)):
        raise MalformedRequest('"columns" must be a list of names')
    told, data = names if names is None else [str(name) for name in names], value["data"]
    if type(data) is Numbers:
        if len(data.dims) == 2 and data.dims[0]:
            return NumberFrame(told, data)
        data = data.values()
    return RowFrame(told, data)


def _records(value: Any) -> Frame:
    if type(value) is not list or any(type(record) is not dict for record in value):
        raise MalformedRequest('"dataframe_records" must be a list of objects')
    return RowFrame.of_records(value)


def _columns(value: dict[str, Any]) -> Frame:
    columns = [column if type(column) is list else [column] for column in value.values()]
    if any(len(column) != len(columns[0]) for column in columns):
        raise MalformedRequest("the columns have different numbers of values")
    return RowFrame(list(value), [list(row) for row in zip(*columns, strict=True)])


# ---- tables


def _read_frame(
    frame: Frame, body: bytes, headers: Headers, servable: Servable, limits: LimitSettings
) -> tuple[list[Tensor], Call]:
    return feeds_of(frame, servable, limits), _answer(headers)


def _read_rows(
    rows: list[Any], body: bytes, headers: Headers, servable: Servable, limits: LimitSettings
) -> tuple[list[Tensor], Call]:
    return v1.from_rows(rows, servable, limits), _answer(headers)


def _unprepared(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    raise UnsupportedMedia("this form is parsed before it is read")


def _csv_codec(protocol: str, has_header: bool | None) -> Codec:
    async def prepare(body: bytes, headers: Headers, limits: LimitSettings) -> Codec:
        frame = await tables.aside(lambda: tables.read_csv(body, limits, has_header), body)
        return Codec(protocol, partial(_read_frame, frame))

    return Codec(protocol, _unprepared, prepare)


def _lines_codec(protocol: str) -> Codec:
    async def prepare(body: bytes, headers: Headers, limits: LimitSettings) -> Codec:
        rows = await tables.aside(lambda: tables.read_lines(body, limits), body)
        return Codec(protocol, partial(_read_rows, rows))

    return Codec(protocol, _unprepared, prepare)


def _parquet_codec(protocol: str) -> Codec:
    async def prepare(body: bytes, headers: Headers, limits: LimitSettings) -> Codec:
        frame = await tables.in_thread(lambda: tables.read_parquet(body, limits))  # the first one loads pyarrow
        return Codec(protocol, partial(_read_frame, frame))

    return Codec(protocol, _unprepared, prepare)


def _door(protocol: str, read_json: Reader) -> Door:
    json = Codec(protocol, read_json, aside_bytes=v1.ASIDE_BYTES)
    lines, parquet = _lines_codec(protocol), _parquet_codec(protocol)
    csvs = {has_header: _csv_codec(protocol, has_header) for has_header in (None, True, False)}

    def choose(headers: Headers) -> Codec:
        kind = media_type(headers)
        has_header = _check_parameters(headers, kind)
        if kind in _JSON:
            return json
        if kind == CSV:
            return csvs[has_header]
        if kind in _LINES:
            return lines
        if kind in _PARQUET:
            return parquet
        raise UnsupportedMedia(f"content type {kind[:100]!r} is not read here; send application/json, {CSV}, {LINES} "
                               f"or {PARQUET}")  # fmt: skip

    return Door(json, choose)


def _check_parameters(headers: Headers, kind: str) -> bool | None:
    """What a content type says of a CSV file's header. Raises UnsupportedMedia for anything else but UTF-8."""
    has_header = None
    for parameter in headers.get(b"content-type", b"").decode("latin-1").split(";")[1:]:
        name, _, value = parameter.strip().lower().partition("=")
        value = value.strip('"')
        if name == "charset" and value in ("utf-8", "utf8"):
            continue
        if name == "header" and kind == CSV and value in ("present", "absent"):
            has_header = value == "present"
        elif name and kind not in ("application/x-www-form-urlencoded",):
            raise UnsupportedMedia(f"content type parameter {parameter.strip()[:100]!r} is not known; bodies are UTF-8")
    return has_header


MLFLOW = _door("mlflow", read)
SAGEMAKER = _door("sagemaker", read)
AZURE = _door("azureml", read_azure)
_SAGEMAKER = b"x-amzn-sagemaker-"


def invocations(headers: Headers) -> Door:
    """The door of `/invocations`: the same forms, under the name of who asks."""
    return SAGEMAKER if any(name.startswith(_SAGEMAKER) for name in headers) else MLFLOW
