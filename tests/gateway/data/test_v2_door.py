"""All forms of the V2 route, through a worker: any form in, any form out, and the same bits in all of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest

from gateway.data.codecs import arrow_library
from gateway.data.codecs.v2_door import choose
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from registry import onnx
from registry.errors import UnsupportedMedia
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

JSON, MSGPACK = "application/json", "application/msgpack"
STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
FORMS = (JSON, MSGPACK, STREAM, FILE)


def one(path: Path, **options: Any) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(path, **options)})


def request_of(form: str, rows: Any) -> bytes:
    """Rows of FP32 for input `x`, in a form."""
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    if form == JSON:
        return json.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}).encode()
    if form == MSGPACK:
        return bytes(msgpack.packb({"inputs": [{**tensor, "data": rows.tobytes()}]}))
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])})
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if form == FILE else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def output_of(answer: Answer) -> Any:
    """The output `y` of an answer, read in the form that it says."""
    form = answer.headers["content-type"]
    if form in (JSON, MSGPACK):
        output = (answer.json if form == JSON else msgpack.unpackb(answer.body))["outputs"][0]
        data = output["data"]
        array = np.array(data, np.float32) if form == JSON else np.frombuffer(data, np.float32)
        return array.reshape(output["shape"])
    table = (pa.ipc.open_file if form == FILE else pa.ipc.open_stream)(answer.body).read_all()
    return np.array(table["y"].to_pylist(), np.float32)


def test_any_form_in_and_any_form_out_give_the_bits_of_onnxruntime_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(8).normal(size=(3, 3)).astype(np.float32)

    async def body(bench: Bench) -> None:
        await bench.route("m", one(models.linear(tmp_path / "a.onnx")))
        want = onnx.run(onnx.open_session(tmp_path / "a.onnx"), {"x": rows})[0]
        pairs = list(itertools.product(FORMS, (*FORMS, "", "*/*", "text/html")))
        answers = await asyncio.gather(
            *(
                bench.ask(
                    "/v2/models/m/infer",
                    request_of(given, rows),
                    headers={"content-type": given, **({"accept": accept} if accept else {})},
                )
                for given, accept in pairs
            )
        )
        for (given, accept), answer in zip(pairs, answers, strict=True):
            assert answer.status == 200, answer.body
            assert answer.headers["content-type"] == (accept if accept in FORMS else given)
            assert output_of(answer).tobytes() == want.tobytes(), (given, accept)
            assert answer.headers["x-driftgate-version"] == "1"
        assert read_pages(tmp_path / "run")[0].totals["m", 1, "champion"].codes == {("v2", "200"): len(pairs)}

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("name", ["application/x-msgpack", "application/vnd.msgpack", "Application/MsgPack; v=5"])
def test_every_name_of_messagepack_is_read(tmp_path: Path, name: str) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", one(models.linear(tmp_path / "a.onnx")))
        rows = np.ones((1, 3), np.float32)
        answer = await bench.ask("/v2/models/m/infer", request_of(MSGPACK, rows), headers={"content-type": name})
        assert (answer.status, answer.headers["content-type"]) == (200, MSGPACK)

    with_worker(tmp_path / "run", body)


def form_of(**headers: str) -> str:
    """Which form the door would answer in, found by the class of the call."""
    codec = choose({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})
    return FORM_OF_CODEC[codec]


FORM_OF_CODEC = {
    choose({b"content-type": given.encode(), b"accept": accept.encode()}): accept for given in FORMS for accept in FORMS
}


@pytest.mark.parametrize(
    ("given", "accept", "want"),
    [
        (MSGPACK, "*/*", MSGPACK),
        (MSGPACK, "application/*", MSGPACK),
        (MSGPACK, "application/json", JSON),
        (MSGPACK, "application/json, application/msgpack", MSGPACK),
        (MSGPACK, "application/json, application/msgpack;q=0.5", JSON),
        (MSGPACK, "text/html, application/json;q=0.9, */*;q=0.8", JSON),
        (MSGPACK, "application/json;q=0, */*", MSGPACK),
        (MSGPACK, "application/json;q=no, */*;q=0.1", MSGPACK),
        (MSGPACK, "", MSGPACK),
        (MSGPACK, ",;;q=;,\xff", MSGPACK),
        (JSON, "application/x-msgpack", MSGPACK),
        (JSON, "APPLICATION/VND.APACHE.ARROW.STREAM", STREAM),
        (JSON, "application/json, text/plain, */*", JSON),
        (STREAM, FILE, FILE),
        (STREAM, "image/png", STREAM),
    ],
)
def test_the_accept_header_is_read_as_http_says(given: str, accept: str, want: str) -> None:
    assert form_of(content_type=given, accept=accept) == want


def test_a_form_that_nobody_reads_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(UnsupportedMedia, match=r"application/msgpack, application/vnd\.apache\.arrow\.stream"):
        choose({b"content-type": b"application/xml"})


@pytest.mark.parametrize(
    ("form", "body", "status", "code"),
    [
        (MSGPACK, b"\xc1", 400, "malformed_request"),
        (MSGPACK, b"", 400, "malformed_request"),
        (MSGPACK, request_of(MSGPACK, np.ones((1, 4), np.float32)), 400, "tensor_mismatch"),
        (STREAM, b"", 400, "malformed_request"),
        (STREAM, b"\xff\xff\xff\xff\x10\0\0\0", 400, "malformed_request"),
        (FILE, request_of(STREAM, np.ones((1, 4), np.float32)), 400, "tensor_mismatch"),
        (STREAM, request_of(STREAM, np.ones((2, 3), np.float32))[:-20], 400, "malformed_request"),
    ],
)
def test_bad_bodies_are_the_caller_s_errors_told_in_json(
    tmp_path: Path, form: str, body: bytes, status: int, code: str
) -> None:
    async def ask(bench: Bench) -> None:
        await bench.route("m", one(models.linear(tmp_path / "a.onnx")))
        answer = await bench.ask("/v2/models/m/infer", body, headers={"content-type": form})
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
        assert answer.headers["content-type"] == JSON

    with_worker(tmp_path / "run", ask)


def test_compressed_arrow_is_415_and_says_what_to_do(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([[1.0, 2.0, 3.0]] * 500, pa.list_(pa.float32(), 3))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)

    async def ask(bench: Bench) -> None:
        await bench.route("m", one(models.linear(tmp_path / "a.onnx")))
        answer = await bench.ask("/v2/models/m/infer", sink.getvalue().to_pybytes(), headers={"content-type": STREAM})
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media")
        assert "without compression" in answer.json["error"]

    with_worker(tmp_path / "run", ask)


def test_a_large_arrow_body_is_opened_in_a_thread_and_gives_the_same_bits(tmp_path: Path) -> None:
    rows = np.random.default_rng(9).normal(size=(100_000, 3)).astype(np.float32)  # 1.2 MB

    async def body(bench: Bench) -> None:
        await bench.route("m", one(models.linear(tmp_path / "a.onnx"), batch="never"))
        want = onnx.run(onnx.open_session(tmp_path / "a.onnx"), {"x": rows})[0]
        answer = await bench.ask("/v2/models/m/infer", request_of(STREAM, rows), headers={"content-type": STREAM})
        table = pa.ipc.open_stream(answer.body).read_all()
        assert table["y"].chunk(0).flatten().to_numpy().tobytes() == want.tobytes()

    with_worker(tmp_path / "run", body)


def test_a_worker_loads_pyarrow_and_msgpack_when_asked_and_never_pandas(tmp_path: Path) -> None:
    """pyarrow loads pandas and its compute module behind many of its functions, each half a second of silence."""
    tables = {
        "m": pa.table({"x": pa.array([[1.0, 2.0, None], [4.0, 5.0, 6.0]], pa.list_(pa.float64(), 3))}),
        "c": pa.table({"age": [1, None], "visits": [3, 4], "city": pa.array(["a", "b"]).dictionary_encode()}),
        "t": pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 3), np.float32))}),
        "v": pa.table({"age": [1, 2], "visits": [3, 4], "city": pa.array(["a", "b" * 20], pa.string_view())}),
        "l": pa.table({"x": pa.array([[1.0, 2.0, 3.0]])}),
    }
    for name, table in tables.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (tmp_path / f"{name}.arrow").write_bytes(sink.getvalue().to_pybytes())
    program = f"""
import sys
from pathlib import Path
from gateway.data.routes import RouteEntry
from registry.manifest import ServingOptions
from tests.support import serving

folder = Path({str(tmp_path)!r})
free = ServingOptions(nan="allow")

async def body(bench):
    for name, path in (("m", "matrix"), ("c", "columns")):
        entry = RouteEntry(champion=1, aspired={{1: serving.aspire(folder / f"{{path}}.onnx", options=free)}})
        await bench.route(name, entry)
    assert not {{"pyarrow", "msgpack"}} & set(sys.modules)
    for name in {list(tables)!r}:
        model = "c" if name in "cv" else "m"
        for accept in ({STREAM!r}, {FILE!r}, {MSGPACK!r}, {JSON!r}):
            headers = {{"content-type": {STREAM!r}, "accept": accept}}
            sent = (folder / f"{{name}}.arrow").read_bytes()
            answer = await bench.ask(f"/v2/models/{{model}}/infer", sent, headers=headers)
            assert answer.status == 200, (name, answer.body)
    assert {{"pyarrow", "msgpack"}} <= set(sys.modules)
    assert not {{"pandas", "pyarrow.compute", "scipy"}} & set(sys.modules)

serving.with_worker(folder / "run", body)
"""
    models.linear(tmp_path / "matrix.onnx")
    models.columns(tmp_path / "columns.onnx")
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_while_pyarrow_loads_the_event_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    may_end = threading.Event()
    monkeypatch.setattr(arrow_library, "_loaded", [])
    monkeypatch.setattr(arrow_library, "get", lambda: may_end.wait(20))

    async def main() -> None:
        loading = asyncio.create_task(arrow_library.load())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not loading.done()  # we are here, and it is not
        may_end.set()
        await loading

    asyncio.run(main())
