"""MLflow's, SageMaker's and Azure ML's forms of a request, through a real worker; tables that are not what they say."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pyarrow import parquet

from gateway.data.codecs import arrow, mlflow, tables
from gateway.data.codecs.frame import ColumnFrame, RowFrame, doubles, feeds_of, wholes
from gateway.data.page_reader import read_pages
from gateway.data.routes import AspiredVersion, RouteEntry
from gateway.data.servable import InputSlot, Servable, load
from gateway.settings import LimitSettings
from monitor.record import make_log_schema
from registry import onnx
from registry.errors import CallerError, PayloadTooLarge, ServingError, TensorMismatch
from registry.manifest import Manifest, ServingOptions
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

LIMITS = LimitSettings()
FRAME = pd.DataFrame({"age": [34.0, 51.5], "visits": [12.0, 3.0], "spend": [0.5, 1.25]})
TABLE = FRAME.to_numpy(np.float32)
VISITS = pd.DataFrame({"city": ["Zürich", "東京"], "visits": [3, 4], "age": [1.5, 2.0], "more": [0, 0]})
VISITS_SAID = [{"total": [4.5], "named": ["Zürich"]}, {"total": [6.0], "named": ["東京"]}]


def named(path: Path, columns: list[str] | None = None, **options: Any) -> AspiredVersion:
    """A version of the linear model whose reference data named its columns."""
    version = aspire(models.linear(path), options=ServingOptions(**options) if options else None)
    manifest = Manifest.from_json(Path(version.manifest_path).read_text())
    schema = make_log_schema(manifest.inputs, manifest.outputs, True, columns=columns or list(FRAME.columns))
    Path(version.manifest_path).write_text(dataclasses.replace(manifest, log_schema=schema.to_dict()).to_json())
    return version


def expected(path: Path) -> Any:
    return onnx.run(onnx.open_session(path), {"x": TABLE})[0]


def as_parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", **options)
    return buffer.getvalue()


async def invoke(bench: Bench, body: Any, kind: str = "application/json", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return await bench.ask("/invocations", raw, headers={"content-type": kind, **headers})


def test_every_form_of_a_table_gives_the_bits_that_onnxruntime_gives(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        want = expected(tmp_path / "a.onnx").tobytes()
        shuffled = FRAME[["spend", "age", "visits"]].assign(more="x")
        anonymous = FRAME.set_axis(["a", "b", "c"], axis=1)
        for request, kind in (
            ({"dataframe_split": FRAME.to_dict(orient="split")}, "application/json"),
            ({"dataframe_split": shuffled.to_dict(orient="split")}, "application/json; charset=utf-8"),
            ({"dataframe_split": anonymous.to_dict(orient="split")}, "application/json"),
            ({"dataframe_split": {"data": TABLE.tolist()}}, "application/json"),
            ({"dataframe_split": {"columns": [0, 1, 2], "data": TABLE.tolist()}}, "application/json"),
            ({"dataframe_split": {"columns": ["x"], "data": [[row] for row in TABLE.tolist()]}}, "application/json"),
            ({"dataframe_records": shuffled.to_dict(orient="records")}, "application/json"),
            ({"instances": TABLE.tolist()}, "application/json"),
            ({"instances": FRAME.to_dict(orient="records")}, "application/json"),
            ({"inputs": TABLE.tolist(), "params": {"temperature": 0.5}}, "application/json"),
            ({"inputs": {"x": TABLE.tolist()}}, "application/json"),
            ({"inputs": FRAME.to_dict(orient="list")}, "application/json"),
            (TABLE.tolist(), "application/json"),
            (FRAME.to_csv(index=False).encode(), "text/csv"),
            (shuffled.to_csv(index=False).encode(), "text/csv; charset=utf-8"),
            (FRAME.to_csv(index=False, header=False).encode(), "text/csv"),
            (FRAME.to_csv(index=False, header=False).encode(), "text/csv; header=absent"),
            (b"\xef\xbb\xbf" + FRAME.to_csv(index=False, lineterminator="\r\n").encode(), "text/csv;header=present"),
            (b"\n".join(orjson.dumps(row) for row in TABLE.tolist()), "application/jsonlines"),
            (shuffled.drop(columns="more").to_json(orient="records", lines=True).encode(), "application/x-ndjson"),
            (as_parquet(FRAME), "application/vnd.apache.parquet"),
            (as_parquet(shuffled.set_index("more"), compression=None), "application/x-parquet"),
            (as_parquet(FRAME.astype({"visits": "int8", "age": "float32"})), "application/vnd.apache.parquet"),
        ):
            answer = await invoke(bench, request, kind)
            assert answer.status == 200, (request, answer.body)
            assert list(answer.json) == ["predictions"]
            assert np.array(answer.json["predictions"], np.float32).tobytes() == want, request
            assert answer.headers["x-driftgate-version"] == "1"
        codes = {code for total in read_pages(tmp_path / "run")[0].totals.values() for code in total.codes}
        assert codes == {("mlflow", "200")}

    with_worker(tmp_path / "run", body)


def test_columns_of_any_type_find_the_inputs_of_their_name(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("c", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "c.onnx"))}))
        categories = VISITS.astype({"city": "category", "visits": "int16"})
        for request, kind in (
            ({"dataframe_split": VISITS.to_dict(orient="split")}, "application/json"),
            ({"dataframe_records": VISITS.to_dict(orient="records")}, "application/json"),
            ({"inputs": VISITS.drop(columns="more").to_dict(orient="list")}, "application/json"),
            (VISITS.to_csv(index=False).encode(), "text/csv"),
            (as_parquet(VISITS), "application/vnd.apache.parquet"),
            (as_parquet(categories), "application/vnd.apache.parquet"),
        ):
            answer = await invoke(bench, request, kind)
            assert answer.json == {"predictions": VISITS_SAID}, answer.body

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("columns", [[0, 1, 2], [2, 0, 1], ["2", "0", "1"]])
def test_numbers_are_names_where_the_model_knows_them(tmp_path: Path, columns: list[Any]) -> None:
    frame = pd.DataFrame(TABLE)[[int(number) for number in columns]]
    sent = {"dataframe_split": {"columns": columns, "data": frame.to_numpy().tolist()}}

    async def body(bench: Bench) -> None:
        version = named(tmp_path / "m.onnx", columns=["0", "1", "2"])
        await bench.route("m", RouteEntry(champion=1, aspired={1: version}))
        answer = await invoke(bench, sent)
        assert answer.json == {"predictions": expected(tmp_path / "m.onnx").tolist()}

    with_worker(tmp_path / "run", body)


def test_numbered_columns_are_taken_in_order_where_no_name_is_known(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        path = models.columns(tmp_path / "m.onnx")
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        for columns, status in (([0, 1, 2], 200), ([1, 0, 2], 400), (["a", "b", "c"], 400)):
            answer = await invoke(bench, {"dataframe_split": {"columns": columns, "data": [[1.5, 3, "Zürich"]]}})
            assert answer.status == status

    with_worker(tmp_path / "run", body)


def test_an_answer_has_the_form_that_accept_asks_for(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("c", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "c.onnx"))}))
        request = {"dataframe_records": VISITS.to_dict(orient="records")}
        for accept, kind, told in (
            ("text/csv", "text/csv; charset=utf-8", "4.5,Zürich\n6.0,東京\n"),
            ("application/jsonlines", "application/jsonlines; charset=utf-8", None),
            ("image/png, text/csv;q=0, application/jsonlines", "application/jsonlines; charset=utf-8", None),
            ("application/json, text/csv", "application/json", None),
            ("image/png", "application/json", None),
            ("*/*", "application/json", None),
        ):
            answer = await invoke(bench, request, accept=accept)
            assert answer.headers["content-type"] == kind, accept
            if told is not None:
                assert answer.body.decode() == told
            elif "lines" in kind:
                assert [orjson.loads(line) for line in answer.body.splitlines()] == VISITS_SAID
            else:
                assert answer.json == {"predictions": VISITS_SAID}

    with_worker(tmp_path / "run", body)


def test_azures_forms_are_answered_as_azures_servers_answer_them(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        want = expected(tmp_path / "a.onnx").tolist()
        split, records = FRAME.to_dict(orient="split"), FRAME.to_dict(orient="records")
        for request, said in (
            ({"input_data": split, "params": {}}, want),
            ({"input_data": TABLE.tolist()}, want),
            ({"input_data": {"x": TABLE.tolist()}}, want),
            ({"data": TABLE.tolist()}, want),
            (TABLE.tolist(), want),
            ({"Inputs": {"data": records}, "GlobalParameters": {"method": "predict"}}, {"Results": want}),
            ({"Inputs": records}, {"Results": want}),
            ({"dataframe_split": split}, {"predictions": want}),
        ):
            answer = await bench.ask("/score", request)
            assert answer.json == said, request
        again = await bench.ask("/score", {"data": TABLE.tolist()}, headers={"x-ms-client-request-id": "order-7"})
        assert again.headers["x-request-id"] == "order-7"
        bad = await bench.ask("/score", {"rows": []})
        assert (bad.status, bad.json["code"]) == (400, "malformed_request")
        codes = {code for total in read_pages(tmp_path / "run")[0].totals.values() for code in total.codes}
        assert codes == {("azureml", "200"), ("azureml", "400")}

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("body_", "kind", "status", "told"),
    [
        ({}, "application/json", 400, "exactly one of"),
        ({"instances": [], "inputs": []}, "application/json", 400, "exactly one of"),
        ({"messages": []}, "application/json", 400, "it has messages"),
        ("text", "application/json", 400, "exactly one of"),
        (b"{", "application/json", 400, "not JSON"),
        ({"inputs": [[1, 2, 3]], "params": [1]}, "application/json", 400, "params"),
        ({"inputs": [[1, 2, 3]], "params": {"a": [1]}}, "application/json", 400, "params"),
        ({"dataframe_split": [[1, 2, 3]]}, "application/json", 400, "dataframe_split"),
        ({"dataframe_split": {"columns": "abc", "data": [[1, 2, 3]]}}, "application/json", 400, "columns"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2, 3]]}}, "application/json", 400, "1 column names"),
        ({"dataframe_split": {"data": [[1, 2, 3], [1, 2]]}}, "application/json", 400, "every row"),
        ({"dataframe_split": {"data": [[1, 2, 3], 5]}}, "application/json", 400, "every row"),
        ({"dataframe_split": {"data": [[1, 2]]}}, "application/json", 400, "shape"),
        ({"dataframe_split": {"data": [[1, 2, [3]]]}}, "application/json", 400, "got list"),
        ({"dataframe_split": {"data": [[[1], [2], [3]]]}}, "application/json", 400, "one value a cell"),
        ({"dataframe_split": {"columns": ["a", "a", "b"], "data": [[1, 2, 3]]}}, "application/json", 400, "twice"),
        ({"dataframe_records": [{"age": 1, "visits": 2}]}, "application/json", 400, "lacks columns"),
        ({"dataframe_records": [{"age": 1, "visits": 2, "spend": None}]}, "application/json", 400, "null"),
        ({"dataframe_records": [{"age": 1, "visits": 2, "spend": "3"}]}, "application/json", 400, "strings"),
        ({"dataframe_records": [1]}, "application/json", 400, "list of objects"),
        ({"inputs": {"age": [1], "visits": [2, 3], "spend": [4]}}, "application/json", 400, "different numbers"),
        ([], "application/json", 400, "at least one row"),
        (b"age,visits,spend\n1,2,x\n", "text/csv", 400, "'x' is not a number"),
        (b"age,visits,spend\n1,2,\n", "text/csv", 400, "null"),
        (b"age,visits,spend\n1,2,1_0\n", "text/csv", 400, "'1_0' is not a number"),
        (b"age,visits,spend\n1,2,1e39\n", "text/csv", 400, "does not fit"),
        (b"age,visits,spend\n1,2,inf\n", "text/csv", 400, "does not fit"),
        (b"age,visits,spend\n1,2\n", "text/csv", 400, "3 column names and 2 columns"),
        (b"age,visits,spend\n1,2,3\n1,2\n", "text/csv", 400, "every row"),
        (b"", "text/csv", 400, "empty"),
        (b"\xff\xfe", "text/csv", 400, "UTF-8"),
        (b'"a', "text/csv", 400, "not CSV"),
        (b"", "application/jsonlines", 400, "no lines"),
        (b"[1,2,3]\n{", "application/jsonlines", 400, "line 2"),
        (b"PAR1 not", "application/vnd.apache.parquet", 400, "no Parquet"),
        (b"", "application/vnd.apache.parquet", 400, "no Parquet"),
        (b"{}", "application/json; charset=latin-1", 415, "charset=latin-1"),
        (b"{}", "application/json; format=pandas-split", 415, "format=pandas-split"),
        (b"<a/>", "application/xml", 415, "application/xml"),
    ],
)
def test_what_is_no_table_of_the_model_is_refused_with_the_reason(
    tmp_path: Path, body_: Any, kind: str, status: int, told: str
) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        answer = await invoke(bench, body_, kind)
        assert answer.status == status, answer.body
        assert told in answer.json["error"]
        assert set(answer.json) == {"error", "code", "details", "request_id"}

    with_worker(tmp_path / "run", body)


def test_a_missing_value_is_nan_where_the_version_allows_nan(tmp_path: Path) -> None:
    gaps = FRAME.astype(object)
    gaps.loc[1, "spend"] = None

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx", nan="allow")}))
        for request, kind in (
            ({"dataframe_records": gaps.to_dict(orient="records")}, "application/json"),
            (gaps.to_csv(index=False).encode(), "text/csv"),
            (as_parquet(gaps.astype(float)), "application/vnd.apache.parquet"),
            (as_parquet(FRAME.assign(spend=pd.array([1, None], "Int64"))), "application/vnd.apache.parquet"),
        ):
            answer = await invoke(bench, request, kind)
            assert answer.status == 200, answer.body
            first, second = answer.json["predictions"]
            assert None not in first
            assert second == [None, None]

    with_worker(tmp_path / "run", body)


def test_integers_of_a_table_are_never_rounded_and_fractions_never_cut(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("c", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "c.onnx"))}))
        for visits in ([3.5, 4.0], [2**63, 4], [None, 4]):
            frame = VISITS.assign(visits=pd.Series(visits, dtype=object))
            for request, kind in (
                ({"dataframe_records": frame.to_dict(orient="records")}, "application/json"),
                (frame.to_csv(index=False).encode(), "text/csv"),
            ):
                answer = await invoke(bench, request, kind)
                assert (answer.status, answer.json["code"]) == (400, "tensor_mismatch"), (visits, kind)
        for column in (pd.Series([3.0, 4.0]), pd.Series([2**63, 4], dtype="uint64"), pd.Series([True, False])):
            answer = await invoke(bench, as_parquet(VISITS.assign(visits=column)), "application/vnd.apache.parquet")
            assert (answer.status, answer.json["code"]) == (400, "tensor_mismatch"), column.dtype

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("table", "options", "code", "told"),
    [
        ({"x": [[1.0, 2.0]]}, {}, "unsupported_media", "lists"),
        ({"x": [1.0] * 1000}, {"compression": "zstd"}, "unsupported_media", "ZSTD"),
        ({"x": [pd.Timestamp("2026-01-01")]}, {}, "unsupported_media", "timestamp"),
        ({"x": [1.0] * 2000}, {}, "payload_too_large", "2000 cells"),
        ({"x": ["a" * 50_000, "b" * 50_000]}, {"compression": None}, "payload_too_large", "decompressed"),
    ],
)
def test_a_parquet_file_that_would_take_much_memory_or_has_other_types_is_refused(
    table: dict[str, Any], options: dict[str, Any], code: str, told: str
) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(table), buffer, **options)
    with pytest.raises(ServingError, match=told) as caught:
        tables.read_parquet(buffer.getvalue(), LimitSettings(tensor_elements=1000, body_bytes=65_536))
    assert caught.value.code == code


def test_many_rows_of_one_long_text_cost_that_text_once() -> None:
    buffer = io.BytesIO()
    column = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["a" * 1_000_000])
    parquet.write_table(pa.table({"s": column}), buffer)
    raw = buffer.getvalue()
    assert len(raw) < 200_000
    frame = tables.read_parquet(raw, LIMITS)
    texts: Any = frame._columns[0]  # type: ignore[attr-defined]
    assert len(texts) == 50_000
    assert len({id(text) for text in texts}) <= 8  # one a batch


def test_a_text_of_many_rows_counts_in_each_of_them(tmp_path: Path) -> None:
    """onnxruntime has a copy for each: 48 KB made 4 GB."""
    version = aspire(models.columns(tmp_path / "m.onnx"))
    servable = load("m", 1, Path(version.model_path), Path(version.manifest_path), 1, 64)
    limits = LimitSettings(body_bytes=10_000)

    def sent(rows: int) -> Any:
        text = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["a" * 1000])
        return pa.table({"age": np.zeros(rows, np.float32), "visits": np.zeros(rows, np.int64), "city": text})

    def from_parquet(rows: int) -> list[Any]:
        parquet.write_table(sent(rows), buffer := io.BytesIO())
        return feeds_of(tables.read_parquet(buffer.getvalue(), limits), servable, limits)

    def from_arrow(rows: int) -> list[Any]:
        with pa.ipc.new_stream(sink := pa.BufferOutputStream(), sent(rows).schema) as stream:
            stream.write_table(sent(rows))
        return arrow.read(sink.getvalue().to_pybytes(), {}, servable, limits)[0]

    for read in (from_parquet, from_arrow):
        assert read(10)[2].shape == (10, 1)
        with pytest.raises(PayloadTooLarge, match="11000 characters"):
            read(11)


def test_a_parquet_file_of_very_many_texts_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_OBJECTS", 20_000)
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"s": ["a"] * 20_001, "n": np.zeros(20_001)}), buffer)
    with pytest.raises(PayloadTooLarge, match="20000 cells of text"):
        tables.read_parquet(buffer.getvalue(), LIMITS)


def test_numbers_where_texts_are_wanted_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = models.build(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [models.value("x", TensorProto.STRING, ["N", 1])],
        [models.value("y", TensorProto.STRING, ["N", 1])],
    )
    version = aspire(path)
    servable = load("m", 1, path, Path(version.manifest_path), 1, 64)
    with pytest.raises(TensorMismatch, match="got a column of float64, model wants strings"):
        feeds_of(ColumnFrame(["x"], [np.zeros(3)]), servable, LIMITS)


def test_a_csv_file_of_too_many_cells_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ServingError, match="send Parquet") as caught:
        tables.read_csv(b"1,\n" * (tables.MOST_CSV_CELLS // 2 + 1), LIMITS)
    assert caught.value.code == "payload_too_large"


def test_a_long_csv_file_gives_what_a_short_one_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    long = pd.DataFrame(rng.normal(size=(4000, 3)), columns=FRAME.columns)
    assert len(long.to_csv(index=False)) > tables._LONG_BYTES

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        await bench.route("free", RouteEntry(champion=1, aspired={1: named(tmp_path / "b.onnx", nan="allow")}))
        whole = await invoke(bench, long.to_csv(index=False).encode(), "text/csv", **{"x-driftgate-model": "m"})
        assert len(whole.json["predictions"]) == 4000
        for start in range(0, 4000, 500):
            part = long[start : start + 500].to_csv(index=False).encode()
            short = await invoke(bench, part, "text/csv", **{"x-driftgate-model": "m"})
            assert short.json["predictions"] == whole.json["predictions"][start : start + 500]
        for cell, told in (
            ("", "null"),
            ("x", "'x' is not a number"),
            ("1e39", "does not fit"),
            ("inf", "does not fit"),
        ):
            spoilt = (long.to_csv(index=False) + f"1,2,{cell}\n").encode()
            answer = await invoke(bench, spoilt, "text/csv", **{"x-driftgate-model": "m"})
            assert answer.status == 400
            assert told in answer.json["error"]
        gap = (long.to_csv(index=False) + "1,2,\n").encode()
        free = await invoke(bench, gap, "text/csv", **{"x-driftgate-model": "free"})
        assert free.json["predictions"][-1] == [None, None]

    with_worker(tmp_path / "run", body)


texts = st.one_of(
    st.integers(-300, 300).map(str),
    st.integers(-(2**66), 2**66).map(str),
    st.sampled_from(["", " 7 ", "+1", "1.0", "1e2", "1_0", "x", "nan", "٣", "127", "128", "-0"]),
)


@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), kind=st.sampled_from(["INT8", "INT64", "UINT64"])
)
def test_whole_numbers_that_were_read_ahead_are_those_that_text_gives(rows: list[tuple[str, str]], kind: str) -> None:
    manifest = dataclasses.replace(models.manifest_of("a"), inputs=(TensorSpec("x", kind, (None, 2)),))
    servable, listed = Servable("m", 1, None, manifest, 64), [list(row) for row in rows]

    def read(**ahead: Any) -> Any:
        try:
            (feed,) = feeds_of(RowFrame(None, listed, is_text=True, **ahead), servable, LIMITS)
        except CallerError as error:
            return error.code
        return feed.dtype, feed.tolist()

    assert read(numbers=doubles(listed), wholes=wholes(listed)) == read()


cells = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers()))


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.lists(cells, max_size=4), max_size=4))
@settings(deadline=None, max_examples=100)
def test_no_table_makes_anything_but_tensors_or_an_error_of_the_caller(
    session: Servable, names: list[str], rows: list[list[Any]]
) -> None:
    with contextlib.suppress(CallerError):
        feeds = feeds_of(RowFrame(names or None, rows), session, LIMITS)
        assert [feed.dtype for feed in feeds] == [slot.dtype for slot in session.slots]


@given(st.binary(max_size=200), st.sampled_from(["json", "azure", "csv", "lines", "parquet"]))
@settings(deadline=None, max_examples=100)
def test_no_bytes_make_anything_but_an_error_of_the_caller(session: Servable, body: bytes, form: str) -> None:
    readers: dict[str, Any] = {
        "json": lambda: mlflow.read(body, {}, session, LIMITS),
        "azure": lambda: mlflow.read_azure(body, {}, session, LIMITS),
        "csv": lambda: feeds_of(tables.read_csv(body, LIMITS), session, LIMITS),
        "lines": lambda: tables.read_lines(body, LIMITS),
        "parquet": lambda: tables.read_parquet(b"PAR1" + body + b"PAR1", LIMITS),
    }
    with contextlib.suppress(CallerError):
        readers[form]()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    path = models.columns(tmp_path_factory.mktemp("m") / "c.onnx")
    manifest = Manifest.from_json(Path(aspire(path).manifest_path).read_text())
    return Servable("c", 1, onnx.open_session(path), manifest, 64)


def test_a_csv_cell_may_hold_what_unicode_calls_a_line_end(tmp_path: Path) -> None:
    frame = tables.read_csv("city,n\na\u2028b\x85\x0bc,1\r\nd,2\n".encode(), LIMITS)
    assert (frame.height, frame.width) == (2, 2)
    slot = onnx_slot(tmp_path)
    assert frame.column(slot, 0, False).tolist() == ["a\u2028b\x85\x0bc", "d"]


def onnx_slot(folder: Path) -> Any:
    """A slot of strings."""
    session = onnx.open_session(models.columns(folder / "slot.onnx"))
    spec = next(spec for spec in onnx.input_specs(session) if spec.datatype == "BYTES")
    return InputSlot(spec, np.dtype(object))


@pytest.mark.parametrize(
    ("first", "height"), [(b"1,,3", 2), (b"1,NaN,3", 2), (b"1,2,3", 2), (b",,", 1), (b"a,1,2", 1), (b",a,b", 1)]
)
def test_a_first_line_with_missing_numbers_is_no_header(first: bytes, height: int) -> None:
    frame = tables.read_csv(first + b"\n4,5,6\n", LIMITS)
    assert (frame.height, frame.names is None) == (height, height == 2)


def test_lines_that_end_in_carriage_returns_count_as_lines() -> None:
    few = dataclasses.replace(LIMITS, tensor_elements=7)
    for body in (b"1\r" * 7, b"1,2\r\n" * 4, b"1\n" * 7):
        with pytest.raises(PayloadTooLarge):
            tables.read_csv(body, few)
    assert tables.read_csv(b"1,2\r\n" * 3, few).height == 3
    with pytest.raises(PayloadTooLarge):
        tables.read_lines(b"1\n" * 7, few)


def test_a_long_header_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    header = ",".join(["x", *(f"column {number}" for number in range(6000))]).encode() + b"\n"

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        wide = await invoke(bench, header, "text/csv")
        assert (wide.status, wide.json["code"]) == (400, "tensor_mismatch")
        empty = await invoke(bench, b"age,visits,spend," + header, "text/csv")
        assert empty.status == 400  # "x" is a column too, without width
        assert (await invoke(bench, b"age,visits,spend," + header[2:], "text/csv")).json == {"predictions": []}

    with_worker(tmp_path / "run", body)


def test_records_of_ever_other_columns_are_refused_before_they_become_a_table(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx", nan="allow")}))
        records = [{f"column {number}": 1} for number in range(2000)]
        for path in ("/invocations", "/v1/models/m:predict"):
            form = "dataframe_records" if path == "/invocations" else "instances"
            answer = await bench.ask(path, {form: records})
            assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
        lacking = [{"age": 1.0, "visits": 2.0}, {"age": 1.0, "spend": 2.0}]
        assert (await invoke(bench, {"dataframe_records": lacking})).status == 200

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv;q=0.1, application/json", "application/json"),
        ("application/json;q=0.5, text/csv", "text/csv; charset=utf-8"),
        ("text/html, text/csv;q=0.5, */*;q=0.1", "text/csv; charset=utf-8"),
        ("text/csv;q=0, text/csv;q=x", "application/json"),
    ],
)
def test_accept_is_read_by_its_qualities(tmp_path: Path, accept: str, kind: str) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        answer = await invoke(bench, {"instances": [[1, 2, 3]]}, accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (200, kind)

    with_worker(tmp_path / "run", body)


def test_long_names_are_not_sent_back_whole(tmp_path: Path) -> None:
    long = "a" * 100_000

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx")}))
        for document in (
            {long: 1},
            {"inputs": {"x": [[1, 2, 3]], long: 1}},
            {"dataframe_records": [{"age": 1, long: 1}]},
        ):
            answer = await invoke(bench, document)
            assert answer.status == 400
            assert len(answer.body) < 2000

    with_worker(tmp_path / "run", body)


def test_a_number_too_large_for_csv_is_no_infinity(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: named(tmp_path / "a.onnx", nan="allow")}))
        for rows in (1, 20_000):  # read on the event loop, and beside it
            answer = await invoke(bench, b"age,visits,spend\n1,1e400,3\n" + b"1,2,3\n" * rows, "text/csv")
            assert (answer.status, answer.json["code"]) == (400, "tensor_mismatch")
        assert (await invoke(bench, b"age,visits,spend\n1,-inf,3\n", "text/csv")).status == 200

    with_worker(tmp_path / "run", body)


def test_a_parquet_file_without_rows_has_no_types_to_refuse(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "a.onnx"))}))
        answer = await invoke(bench, as_parquet(VISITS[:0]), mlflow.PARQUET)
        assert (answer.status, answer.json) == (200, {"predictions": []})

    with_worker(tmp_path / "run", body)
