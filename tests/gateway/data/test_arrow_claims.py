"""An Arrow stream's claims: what pyarrow writes passes untouched, what asks for memory that it has not is refused."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import flatbuffers
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data.codecs.arrow_claims import MOST_FIELDS, MOST_MESSAGES, checked_stream
from registry.errors import MalformedRequest, PayloadTooLarge, ServingError, TensorMismatch, UnsupportedMedia

MOST = 100_000
TABLE = pa.table(
    {
        "f": np.arange(6.0),
        "t": ["a", "東", "", "b", "c", "d"],
        "c": pa.array(["x", "y", "x", "y", "x", "y"]).dictionary_encode(),
        "b": [True, False, None, True, False, True],
        "l": pa.array([[i, i + 1] for i in range(6)], pa.list_(pa.int16(), 2)),
    }
).replace_schema_metadata({"k": "v"})


def written(table: Any, *, as_file: bool = False, rows: int | None = None, **options: Any) -> bytes:
    """A table as an IPC stream or file."""
    sink = pa.BufferOutputStream()
    make = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with make(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue().to_pybytes())


def message(kind: int, header: Any, body_bytes: int = 0) -> bytes:
    """One message whose header is written by `header(builder)`, without a body."""
    builder = flatbuffers.Builder(0)
    place = header(builder)
    builder.StartObject(5)
    builder.PrependInt16Slot(0, 4, 0)
    builder.PrependUint8Slot(1, kind, 0)
    builder.PrependUOffsetTRelativeSlot(2, place, 0)
    builder.PrependInt64Slot(3, body_bytes, 0)
    builder.Finish(builder.EndObject())
    text = bytes(builder.Output())
    text += b"\0" * (-len(text) % 8)
    return struct.pack("<Ii", 0xFFFFFFFF, len(text)) + text


def vector(builder: Any, places: list[int]) -> Any:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def schema_of_one_field_many_times(builder: Any, count: int, name: str = "x", levels: int = 0) -> Any:
    """Every entry points at the same field; with levels, so does every child."""
    text = builder.CreateString(name)

    def field(children: Any) -> Any:
        builder.StartObject(2)
        builder.PrependInt32Slot(0, 64, 0)
        builder.PrependBoolSlot(1, True, False)
        integer = builder.EndObject()
        builder.StartObject(7)
        builder.PrependUOffsetTRelativeSlot(0, text, 0)
        builder.PrependUint8Slot(2, 2, 0)
        builder.PrependUOffsetTRelativeSlot(3, integer, 0)
        if children is not None:
            builder.PrependUOffsetTRelativeSlot(5, children, 0)
        return builder.EndObject()

    place = field(None)
    for _ in range(levels):
        place = field(vector(builder, [place] * count))
    fields = vector(builder, [place] * count)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(1, fields, 0)
    return builder.EndObject()


def schema_of_one_text_many_times(builder: Any, count: int, size: int) -> Any:
    text = builder.CreateString("k" * size)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, text, 0)
    pair = builder.EndObject()
    pairs = vector(builder, [pair] * count)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(2, pairs, 0)
    return builder.EndObject()


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
def test_what_pyarrow_writes_passes_untouched(as_file: bool, rows: int | None) -> None:
    table = TABLE.drop_columns("c") if as_file and rows else TABLE
    body = written(table, as_file=as_file, rows=rows)
    stream = checked_stream(body, MOST)
    assert stream.obj is body
    assert pa.ipc.open_stream(pa.py_buffer(stream)).read_all().equals(table, check_metadata=True)


def test_a_stream_may_end_without_saying_so_and_nothing_may_follow_it() -> None:
    body = written(TABLE)
    assert body.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    assert len(checked_stream(body[:-8], MOST)) == len(body) - 8
    with pytest.raises(MalformedRequest, match="3 bytes follow"):
        checked_stream(body + b"abc", MOST)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused(codec: str) -> None:
    with pytest.raises(UnsupportedMedia, match="without compression"):
        checked_stream(written(pa.table({"a": np.zeros(1000)}), compression=codec), MOST)
    # A dictionary's own batch may be compressed, too.
    category = pa.table({"a": pa.array(["x" * 1000] * 3).dictionary_encode()})
    with pytest.raises(UnsupportedMedia, match="without compression"):
        checked_stream(written(category, compression=codec), MOST)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.timestamp("s", "UTC"), "timestamp"),
        (pa.null(), "null"),
        (pa.struct({"a": pa.int8()}), "struct"),
        (pa.decimal128(10, 2), "decimal"),
        (pa.map_(pa.int8(), pa.int8()), "map"),
        (pa.list_(pa.date32(), 2), "date"),
        (pa.run_end_encoded(pa.int32(), pa.float32()), "run-end encoded"),
    ],
)
def test_types_that_no_tensor_has_are_refused_by_name(kind: Any, name: str) -> None:
    with pytest.raises(TensorMismatch, match=name):
        checked_stream(written(pa.table({"when": pa.nulls(2, kind)})), MOST)


def test_a_delta_of_a_dictionary_and_big_endian_data_are_refused() -> None:
    first = pa.array(["a", "b"]).dictionary_encode()
    second = pa.DictionaryArray.from_arrays(pa.array([0, 2], pa.int32()), ["a", "b", "c"])
    sink = pa.BufferOutputStream()
    schema = pa.schema({"c": first.type})
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for array in (first, second):
            writer.write_batch(pa.record_batch([array], schema=schema))
    with pytest.raises(UnsupportedMedia, match="delta"):
        checked_stream(sink.getvalue().to_pybytes(), MOST)

    def big_endian(builder: Any) -> Any:
        builder.StartObject(4)
        builder.PrependInt16Slot(0, 1, 0)
        return builder.EndObject()

    with pytest.raises(UnsupportedMedia, match="big-endian"):
        checked_stream(message(1, big_endian), MOST)


def test_more_rows_messages_fields_or_texts_than_the_limits_are_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="limit"):
        checked_stream(written(pa.table({"a": np.zeros(11)})), 10)
    with pytest.raises(PayloadTooLarge, match="messages"):
        checked_stream(written(pa.table({"a": np.zeros(MOST_MESSAGES + 1)}), rows=1), MOST)
    wide = pa.schema([(str(i), pa.int8()) for i in range(MOST_FIELDS + 1)])
    with pytest.raises(PayloadTooLarge, match="fields"):
        checked_stream(written(wide.empty_table()), MOST)


@pytest.mark.parametrize(
    "body",
    [
        message(1, lambda b: schema_of_one_field_many_times(b, 900_000)),
        message(1, lambda b: schema_of_one_field_many_times(b, 8, levels=30)),  # 8^31 fields in 2 kB
        message(1, lambda b: schema_of_one_field_many_times(b, 5_000, name="n" * 100_000)),
        message(1, lambda b: schema_of_one_text_many_times(b, 200_000, 1_000_000)),  # 400 GB of text in 2 MB
    ],
)
def test_tables_that_share_their_parts_cost_no_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            checked_stream(body, MOST)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def batch(builder: Any, rows: int, nodes: list[tuple[int, int]], buffers: list[tuple[int, int]]) -> Any:
    places = []
    for pairs in (nodes, buffers):
        builder.StartVector(16, len(pairs), 8)
        for first, second in reversed(pairs):
            builder.PrependInt64(second)
            builder.PrependInt64(first)
        places.append(builder.EndVector())
    builder.StartObject(5)
    builder.PrependInt64Slot(0, rows, 0)
    builder.PrependUOffsetTRelativeSlot(1, places[0], 0)
    builder.PrependUOffsetTRelativeSlot(2, places[1], 0)
    return builder.EndObject()


@pytest.mark.parametrize(
    ("rows", "nodes", "buffers", "kind", "told"),
    [
        (2, [(2, 0)], [(0, 0), (0, 16)], None, ""),
        (2**60, [(2, 0)], [(0, 0), (0, 16)], PayloadTooLarge, "limit"),
        (2, [(2**60, 0)], [(0, 0), (0, 16)], PayloadTooLarge, "limit"),
        (-1, [(2, 0)], [(0, 0), (0, 16)], MalformedRequest, "negative"),
        (2, [(-2, 0)], [(0, 0), (0, 16)], MalformedRequest, "negative"),
        (2, [(2, 0)], [(0, 0), (-8, 16)], MalformedRequest, "negative"),
        (2, [(2, 0)], [(0, 0), (8, 16)], MalformedRequest, "outside"),
        (2, [(2, 0)], [(0, 0), (0, 2**62)], MalformedRequest, "outside"),
        (2, [(2, 0)], [(2**63 - 1, 2**63 - 1), (0, 16)], MalformedRequest, "outside"),
        (2, [(2, 0)], [(0, 16), (0, 16)], MalformedRequest, "on each other"),
    ],
)
def test_a_batch_s_numbers_must_fit_its_body(
    rows: int, nodes: list[tuple[int, int]], buffers: list[tuple[int, int]], kind: type[ServingError] | None, told: str
) -> None:
    start = message(1, lambda b: schema_of_one_field_many_times(b, 1))
    body = start + message(3, lambda b: batch(b, rows, nodes, buffers), 16) + bytes(16)
    if kind is None:
        assert pa.ipc.open_stream(checked_stream(body, MOST)).read_all().to_pydict() == {"x": [0, 0]}
        return
    with pytest.raises(kind, match=told):
        checked_stream(body, MOST)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff" * 4,
        b"\xff" * 8,
        b"\xff\xff\xff\xff\x08\0\0\0" + b"\xff" * 8,
        b"ARROW1\0\0",
        struct.pack("<I", 100) + bytes(100),  # as before Arrow 0.15
        message(3, lambda b: batch(b, 0, [], [])),  # no schema first
        message(9, lambda b: batch(b, 0, [], [])),
        message(1, lambda b: schema_of_one_field_many_times(b, 1)) * 2,
        message(1, lambda b: schema_of_one_field_many_times(b, 1), 2**62),
    ],
)
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        checked_stream(body, MOST)


GOOD = written(TABLE)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8), st.integers(0, 40))
@settings(deadline=None, max_examples=300)
def test_any_damage_is_passed_on_or_refused_and_never_fails(changes: list[tuple[int, int]], cut: int) -> None:
    body = bytearray(GOOD)
    for at, octet in changes:
        body[at] = octet
    try:
        stream = checked_stream(bytes(body[: len(body) - cut]), MOST)
    except ServingError:
        return
    assert len(stream) <= len(GOOD)
