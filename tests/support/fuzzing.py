"""Every reader of requests as a function of bytes, with requests to start from, for tests that feed them nonsense.

`reader(form)` reads a body as the form's route would, runs a model, and writes the answer. Whoever can send bytes can
send these: nothing but ServingError may come out. The first line of an input of the form `v2_binary` is the value of
its header. Run as a program (`python -m tests.support.fuzzing FORM RUNS CORPUS`), it is a target of atheris: guided by
which lines of ours an input reaches.
"""

from __future__ import annotations

import asyncio
import io
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Reader = Callable[[bytes], int]  # how many models took the body

_JSON = "application/json"
# Form: content type.
FORMS = {
    "v2": _JSON,
    "v2_long": _JSON,
    "v2_binary": "application/octet-stream",
    "msgpack": "application/msgpack",
    "arrow_stream": "application/vnd.apache.arrow.stream",
    "arrow_file": "application/vnd.apache.arrow.file",
    "v1": _JSON,
    "cloudevent": "application/cloudevents+json",
    "mlflow": _JSON,
    "csv": "text/csv",
    "jsonlines": "application/jsonlines",
    "parquet": "application/vnd.apache.parquet",
    "azure": _JSON,
    "grpc": "application/grpc",
}
_KINDS = ("FP32", "INT64", "BYTES")
_LENGTH = b"inference-header-content-length"


def servables(folder: Path) -> dict[str, Any]:
    """`echo`: inputs FP32, INT64 and BYTES of [N, 2], returned as they are; `matrix`: x [N, 3] FP32."""
    from gateway.data.servable import Servable
    from registry import onnx
    from registry.manifest import Manifest
    from tests.support.models import linear
    from tests.support.serving import aspire
    from tests.support.v2 import echo

    matrix = linear(folder / "matrix.onnx")
    manifest = Manifest.from_json(Path(aspire(matrix).manifest_path).read_text())
    return {
        "echo": echo(folder / "echo.onnx", _KINDS, ["N", 2]),
        "matrix": Servable("m", 3, onnx.open_session(matrix), manifest, 64),
    }


@contextmanager
def reader(form: str, folder: Path) -> Iterator[Reader]:
    """Reads a body of this form for two models and writes what each gives back; ServingError when none takes it."""
    from gateway.data.codecs import cloudevents, mlflow, v1, v2_door
    from gateway.data.codecs.v2 import Writer
    from gateway.data.grpc.codec import Request
    from gateway.settings import LimitSettings
    from registry.errors import ServingError

    limits = LimitSettings(tensor_elements=10_000, json_depth=20)
    loop = asyncio.new_event_loop()
    held = [(servable, Writer(servable)) for servable in servables(folder).values()]
    doors = {
        "v1": v1.DOOR,
        "cloudevent": cloudevents.also(v2_door.DOOR),
        "mlflow": mlflow.MLFLOW,
        "csv": mlflow.MLFLOW,
        "jsonlines": mlflow.MLFLOW,
        "parquet": mlflow.SAGEMAKER,
        "azure": mlflow.AZURE,
    }
    door = doors.get(form, v2_door.DOOR)

    def read(body: bytes) -> int:
        headers = {b"content-type": FORMS[form].encode()}
        if form == "v2_binary":
            line, _, body = body.partition(b"\n")
            headers[_LENGTH] = line[:20]
        if form == "grpc":
            codec = Request(body).codec
        else:
            codec = door.choose(headers)
        if codec.prepare is not None:
            codec = loop.run_until_complete(codec.prepare(body, headers, limits))
        taken, refusal = 0, None
        for servable, writer in held:
            try:
                feeds, call = codec.read(body, headers, servable, limits)
                rows = servable.rows_of(feeds)
                call.write(writer, servable.run(feeds), rows)
                taken += 1
            except ServingError as error:
                refusal = error
        if refusal is not None and not taken:
            raise refusal
        return taken

    try:
        yield read
    finally:
        loop.close()


def requests(form: str) -> list[bytes]:
    """Bodies of this form that are right for one of the models."""
    import numpy as np
    import orjson

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    feeds: dict[str, Any] = {
        "FP32": np.array([[1.5, -2.0]], np.float32),
        "INT64": np.array([[7, -(2**40)]]),
        "BYTES": np.array([["a", "Zürich"]], dtype=object),
    }
    v2 = {
        "id": "7",
        "inputs": [
            {"name": kind, "datatype": kind, "shape": [1, 2], "data": feed.ravel().tolist()}
            for kind, feed in feeds.items()
        ],
        "outputs": [{"name": "FP32 out"}],
        "parameters": {"a": 1},
    }
    rows = {"columns": ["a", "b", "c"], "data": x.tolist()}
    match form:
        case "v2":
            matrix = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": x.tolist()}
            return [orjson.dumps(v2), orjson.dumps({"inputs": [matrix]})]
        case "v2_long":
            long = np.linspace(-1e6, 1e6, 1200, dtype=np.float32).reshape(-1, 3)
            tensor = {"name": "x", "datatype": "FP32", "shape": [400, 3], "data": long.ravel().tolist()}
            return [orjson.dumps({"inputs": [tensor]}), orjson.dumps({"inputs": [{**tensor, "data": long.tolist()}]})]
        case "v2_binary":
            return [_binary(v2, feeds)]
        case "msgpack":
            return _packed(v2, x)
        case "arrow_stream" | "arrow_file" | "parquet":
            return [_table(form, x)]
        case "v1":
            return [
                orjson.dumps({"instances": x.tolist()}),
                orjson.dumps({"inputs": {k: f.tolist() for k, f in feeds.items()}}),
            ]
        case "cloudevent":
            event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "datacontenttype": _JSON, "data": v2}
            return [orjson.dumps(event)]
        case "mlflow":
            return [orjson.dumps({"dataframe_split": rows}), orjson.dumps({"inputs": x.tolist(), "params": {"a": 1}})]
        case "csv":
            return [b"a,b,c\n1,2,3\n4,5,6.5\n"]
        case "jsonlines":
            return [b'{"a":1,"b":2,"c":3}\n{"a":4,"b":5,"c":6}\n', b"[1,2,3]\n"]
        case "azure":
            return [orjson.dumps({"input_data": rows}), orjson.dumps({"Inputs": {"data": x.tolist()}})]
        case _:
            return [_message(feeds)]


def _octets(feed: Any) -> bytes:
    from gateway.data.codecs.raw import to_raw

    return bytes(to_raw(feed))


def _binary(v2: dict[str, Any], feeds: dict[str, Any]) -> bytes:
    import orjson

    described, octets = [], b""
    for tensor in v2["inputs"]:
        raw = _octets(feeds[tensor["name"]])
        kept = {name: value for name, value in tensor.items() if name != "data"}
        described.append({**kept, "parameters": {"binary_data_size": len(raw)}})
        octets += raw
    head = orjson.dumps({**v2, "inputs": described})
    return str(len(head)).encode() + b"\n" + head + octets


def _packed(v2: dict[str, Any], x: Any) -> list[bytes]:
    import msgpack

    raw = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": x.tobytes()}
    return [bytes(msgpack.packb(v2)), bytes(msgpack.packb({"inputs": [raw]}))]


def _table(form: str, x: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}), sink)
        return sink.getvalue()
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 3)})
    new = pa.ipc.new_stream if form == "arrow_stream" else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _message(feeds: dict[str, Any]) -> bytes:
    from gateway.data.grpc.messages import ModelInferRequest

    message = ModelInferRequest(
        model_name="m",
        inputs=[{"name": kind, "datatype": kind, "shape": [1, 2]} for kind in feeds],
        raw_input_contents=[_octets(feed) for feed in feeds.values()],
    )
    return bytes(message.SerializeToString())


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Bodies made of these by small damage: what lies near a good request gets deeper than noise."""
    chance = random.Random(seed)
    telling = [0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x5B, 0x5D, 0x7B, 0xC1, 0xDC, 0xDD]
    words = [
        b"-1",
        b"1e999",
        b"null",
        b"[]",
        b"{}",
        b"NaN",
        b"9" * 20,
        b"\xff\xff\xff\xff",
        b"\x00" * 8,
        b'"x"',
        b"[" * 30,
    ]
    for _ in range(count):
        body = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(body) + 1)
            match chance.randrange(6):
                case 0 if body:
                    body[min(at, len(body) - 1)] = chance.choice(telling)
                case 1 if body:
                    body[min(at, len(body) - 1)] ^= 1 << chance.randrange(8)
                case 2:
                    body[at:at] = chance.choice(words)
                case 3:
                    del body[at : at + chance.choice((1, 2, 8, 40))]
                case 4:
                    start = chance.randrange(len(body) + 1)
                    body[at:at] = body[start : start + chance.choice((1, 4, 16, 64))]
                case _:
                    body[at : at + 4] = chance.randbytes(4)
        yield bytes(body)


def main(form: str, runs: int, corpus: Path) -> None:
    """Feed the reader of a form what atheris makes of the corpus; a crash ends the process with a non-zero status."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["gateway.data"]):
        held = reader(form, corpus.parent)
        read = held.__enter__()  # never left: the process ends in `Fuzz`
    from registry.errors import ServingError

    def target(body: bytes) -> None:
        try:
            read(body)
        except ServingError:
            return

    corpus.mkdir(exist_ok=True)
    for number, body in enumerate(requests(form)):
        (corpus / str(number)).write_bytes(body)
    options = [f"-runs={runs}", "-max_len=12000", "-seed=1", "-rss_limit_mb=2048", "-timeout=10", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus.parent}/", str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
