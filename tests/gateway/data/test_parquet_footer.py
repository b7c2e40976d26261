"""Compressions are read from a footer as pyarrow writes it; one that there is not does not end the process."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data.codecs.parquet_footer import compressions
from gateway.data.codecs.tables import read_parquet
from gateway.settings import LimitSettings
from registry.errors import ServingError


def written(compression: Any, rows: int = 5, **options: Any) -> bytes:
    """A table of two columns."""
    sink = io.BytesIO()
    table = pa.table({"a": np.arange(rows), "b": [f"t{i}" for i in range(rows)]})
    pq.write_table(table, sink, compression=compression, **options)
    return sink.getvalue()


def codec_offset(body: bytes) -> int:
    """Where the footer keeps the first column's compression: the one byte that changes what is found, and only it."""
    (found,) = (
        at
        for at in range(len(body) - 8 - int.from_bytes(body[-8:-4], "little"), len(body) - 8)
        if body[at] == 12 and found_in(body[:at] + b"\x12" + body[at + 1 :]) == {"9"}  # 6, ZSTD, to 9, nothing
    )
    return found


def found_in(body: bytes) -> set[str]:
    try:
        return compressions(body)
    except ValueError:
        return set()


@pytest.mark.parametrize("name", ["none", "snappy", "gzip", "brotli", "zstd"])
def test_each_compression_has_pyarrows_name(name: str) -> None:
    body = written(name)
    assert compressions(body) == {pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).compression}


def test_all_columns_of_all_row_groups_are_looked_at() -> None:
    assert compressions(written({"a": "none", "b": "zstd"}, rows=50, row_group_size=10)) == {"UNCOMPRESSED", "ZSTD"}
    assert compressions(written("snappy", rows=0)) <= {"SNAPPY"}


def test_a_compression_that_there_is_not_is_refused_and_the_process_goes_on() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": np.arange(3)}), sink, compression="zstd")
    body = bytearray(sink.getvalue())
    body[codec_offset(bytes(body))] = 18
    with pytest.raises(ServingError, match="compressed with 9"):
        read_parquet(bytes(body), LimitSettings())


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_footer_is_read_or_refused(noise: bytes, at: int) -> None:
    whole = written("snappy")
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[start:-8]
    for damaged in (noise, footer[:at] + noise + footer[at + len(noise) :]):
        body = whole[:start] + damaged + len(damaged).to_bytes(4, "little") + b"PAR1"
        found_in(body)


def test_a_footer_that_could_be_read_in_two_ways_is_refused() -> None:
    row_groups_of_numbers = b"\x49\x15\x02\x00"  # field 4, a list, of one number
    body = b"PAR1" + row_groups_of_numbers + b"\x04\x00\x00\x00PAR1"
    with pytest.raises(ValueError, match="another type"):
        compressions(body)


def test_depth_is_bounded() -> None:
    body = b"PAR1" + b"\x1c" * 5000 + (5000).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="too deep"):
        compressions(body)
