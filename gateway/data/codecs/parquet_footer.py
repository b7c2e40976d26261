"""Which compressions the footer of a Parquet file names, read from the bytes themselves.

pyarrow has an accessor of it and a writer of footers, and both end the process on footers that a caller can make
(pyarrow 26: an uncaught C++ exception, a segmentation fault; found by `tests/gateway/data/test_fuzz.py`), so a body of
some hundred bytes would kill a worker. Invariant: what is found here is what pyarrow's reader finds. It reads a list's
items as its schema says, whatever the list says of them; so a list that says otherwise is refused. Work and depth are
bounded by the footer's length. Called by `tables.py`, away from the event loop.

Source of the form: Apache Thrift's compact protocol and parquet.thrift.
"""

from __future__ import annotations

NAMES = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")

_I32, _I64, _BINARY, _STRUCT = 5, 6, 8, 12
_COMPRESSION = (4, 1, 3, 4)  # FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data, ColumnMetaData.codec
# The field numbers that lead to each list of parquet.thrift, and the type of its items.
_ITEMS = {
    (2,): _STRUCT, (4,): _STRUCT, (5,): _STRUCT, (7,): _STRUCT, (4, 1): _STRUCT, (4, 4): _STRUCT, (4, 1, 3, 2): _I32,
    (4, 1, 3, 3): _BINARY, (4, 1, 3, 8): _STRUCT, (4, 1, 3, 13): _STRUCT, (4, 1, 3, 16, 2): _I64,
    (4, 1, 3, 16, 3): _I64, (4, 1, 3, 17, 2): _I32,
}  # fmt: skip
_DEEPEST = 24

Path = tuple[int, ...]


def compressions(body: bytes) -> set[str]:
    """The names of all compressions in a Parquet file; "9" stands for a number that has no name.

    Raises ValueError when the footer cannot be read, or could be read in two ways.
    """
    if len(body) < 12 or body[-4:] != b"PAR1":
        raise ValueError("the file does not end as a Parquet file does")
    length = int.from_bytes(body[-8:-4], "little")
    if length > len(body) - 12:
        raise ValueError("the footer is longer than the file")
    footer = _Footer(body[len(body) - 8 - length : len(body) - 8])
    try:
        footer.struct(())
    except IndexError:
        raise ValueError("the footer ends too early") from None
    return {NAMES[code] if 0 <= code < len(NAMES) else str(code) for code in footer.codes}


class _Footer:
    """A walk over one struct and all that is in it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.codes: set[int] = set()

    def struct(self, path: Path) -> None:
        """Walk a struct, to which these field numbers lead."""
        if len(path) > _DEEPEST:
            raise ValueError("the footer is too deep")
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind, here = head & 15, (*path, number)
            if here == _COMPRESSION and kind == _I32:
                self.codes.add(self._signed())
            elif kind not in (1, 2):  # true and false: of a field, these are the value
                self._value(kind, here)

    def _value(self, kind: int, path: Path) -> None:
        match kind:
            case 1 | 2 | 3:
                self._at += 1
            case 4 | 5 | 6:
                self._unsigned()
            case 7:
                self._at += 8
            case 8:
                length = self._unsigned()
                self._at += length
            case 9 | 10:
                head = self._byte()
                count = head >> 4 if head >> 4 < 15 else self._unsigned()
                if _ITEMS.get(path, head & 15) != head & 15:
                    raise ValueError("a list of the footer says that its items are of another type")
                self._values(count, (head & 15,), path)
            case 11:
                count = self._unsigned()
                kinds = self._byte() if count else 0
                self._values(count, (kinds >> 4, kinds & 15), (*path, 0))
            case 12:
                self.struct(path)
            case _:
                raise ValueError("the footer has a type that there is not")

    def _values(self, count: int, kinds: tuple[int, ...], path: Path) -> None:
        if len(path) > _DEEPEST:
            raise ValueError("the footer is too deep")
        for _ in range(count):
            for kind in kinds:
                # a list in a list has no field number of its own
                self._value(kind, (*path, 0) if kind in (9, 10, 11) else path)
            if self._at > len(self._data):
                raise ValueError("the footer ends too early")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            part = self._byte()
            value |= (part & 0x7F) << shift
            if part < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("the footer has a number that is too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
