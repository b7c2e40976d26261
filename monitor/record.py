"""One prediction as numbers of a fixed width: which columns a version's tensors become, and how a worker fills them.

Why: lanes, counts and profiles all speak of *columns*; this file is the only place that knows how tensors become
columns, so what a worker logs and what a profile was fitted on can never differ. Invariant: a schema is a pure function
of a version's specs and its example outputs, and gathering is a pure function of schema and tensors, in every process.
Called by the worker's tap, by the profile's fit, and by the monitor. Imports numpy and nothing slower.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, prod, sqrt
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from registry.errors import StateDamaged
from registry.vocabulary import Role, TensorSpec

ERROR = 1  # the request failed: outputs are NaN
KEYED = 2  # a routing key decided the arm
SAMPLED = 4  # the row was chosen from a larger request

ROLE_CODES: dict[Role, int] = {
    Role.CHAMPION: 0,
    Role.CANARY: 1,
    Role.SHADOW: 2,
    Role.DIRECT: 3,
    Role.FALLBACK: 4,
}
ROLES: dict[int, Role] = {code: role for role, code in ROLE_CODES.items()}

MAX_ELEMENTS = 512  # a tensor with more numbers in a row is logged as a summary
MAX_COLUMNS = 4096  # of one side of a row: later tensors become summaries, then are left out
MAX_SUMMED = 4096  # of a tensor with more numbers in a row, as many stand for all in sums
_RUN = 32  # of which so many lie side by side
_LARGE = 1e15  # above it, squares are not summed in single precision
_SPREAD = 0.05  # nor are they where the variance is a smaller part of the squared mean
_FLOAT32_MAX = float(np.finfo(np.float32).max)
SUMMARY = ("mean", "sd", "min", "max", "zeros", "missing", "projection0", "projection1")
TOP = len(SUMMARY)  # a summarised output also keeps the index of its largest element

Kind = Literal["number", "category", "summary", "length"]

_NARROW = {"FP32", "FP16", "BF16", "BOOL", "INT8", "UINT8", "INT16", "UINT16"}  # exact in a float32
_INTEGERS = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
_SCORE_WORDS = ("prob", "logit", "score", "softmax")


@dataclass(frozen=True, slots=True)
class Column:
    """One logged number of a row.

    `offset` is the element's place in the tensor's flattened row, or for a summary the place in `SUMMARY`. A category's
    value is the integer itself, or for strings (`hashed`) the first six bytes of a hash; a length's is the characters
    of a text.
    """

    name: str
    tensor: str
    kind: Kind
    offset: int
    hashed: bool = False


@dataclass(frozen=True, slots=True)
class LogSchema:
    """What a version's rows look like in a lane. Compared by `digest`."""

    by_rows: bool  # axis 0 of every tensor is rows; else a request is one row
    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    input_dtype: Literal["f4", "f8"] = "f4"
    output_dtype: Literal["f4", "f8"] = "f4"
    scores: tuple[str, ...] = ()  # output tensors whose row is one score per class: the largest is the answer

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex. Computed anew each time: keep it where it is asked for often."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; columns are short lists because a wide model has thousands."""
        return {
            "by_rows": self.by_rows,
            "inputs": [[c.name, c.tensor, c.kind, c.offset, int(c.hashed)] for c in self.inputs],
            "outputs": [[c.name, c.tensor, c.kind, c.offset, int(c.hashed)] for c in self.outputs],
            "input_dtype": self.input_dtype,
            "output_dtype": self.output_dtype,
            "scores": list(self.scores),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LogSchema:
        """Raises StateDamaged for what `to_dict` never wrote."""
        try:
            schema = cls(
                by_rows=bool(document["by_rows"]),
                inputs=tuple(_column(item) for item in document["inputs"]),
                outputs=tuple(_column(item) for item in document["outputs"]),
                input_dtype=document["input_dtype"],
                output_dtype=document["output_dtype"],
                scores=tuple(str(name) for name in document.get("scores", ())),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StateDamaged(f"a log schema cannot be read: {error!r}") from None
        if schema.input_dtype not in ("f4", "f8") or schema.output_dtype not in ("f4", "f8"):
            raise StateDamaged(f"a log schema has dtypes {schema.input_dtype!r} and {schema.output_dtype!r}")
        return schema


def _column(item: Sequence[Any]) -> Column:
    name, tensor, kind, offset, hashed = item
    if kind not in get_args(Kind):
        raise ValueError(kind)
    return Column(str(name), str(tensor), kind, int(offset), bool(hashed))


def make_log_schema(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    by_rows: bool,
    columns: Sequence[str] | None = None,
    output_examples: Mapping[str, NDArray[Any]] | None = None,
) -> LogSchema:
    """The columns that a version's rows are logged as.

    `columns` names the numbers of a single 2-D input in order. `output_examples` (rows first) tell the true width of an
    output, as declared output shapes may lie, and whether its numbers are class probabilities.
    """
    examples = output_examples or {}
    ins: list[Column] = []
    for spec in inputs:
        names = columns if columns is not None and len(inputs) == 1 else None
        width = _width(spec.shape, by_rows)
        if width is None and names is not None and by_rows:
            width = len(names)
        _extend(ins, spec, width, names if names is not None and len(names) == width else None, is_output=False)
    outs: list[Column] = []
    scores: list[str] = []
    for spec in outputs:
        example = examples.get(spec.name)
        if example is None:
            width = _width(spec.shape, by_rows)
        else:
            width = _width(tuple(example.shape), by_rows)
        classes = spec.classes or ()
        named = [f"{spec.name}[{name}]" for name in classes] if len(classes) == width else None
        _extend(outs, spec, width, named, is_output=True)
        if width is not None and 2 <= width <= MAX_ELEMENTS and _is_scores(spec, example):
            scores.append(spec.name)
    return LogSchema(
        by_rows=by_rows,
        inputs=tuple(ins),
        outputs=tuple(outs),
        input_dtype=_block_dtype(inputs, ins),
        output_dtype=_block_dtype(outputs, outs),
        scores=tuple(scores),
    )


def _width(shape: Sequence[int | None] | None, by_rows: bool) -> int | None:
    """Numbers in one row, or None when that is not known beforehand."""
    if shape is None or (by_rows and not shape):
        return None
    rest = list(shape[1:] if by_rows else shape)
    if any(size is None or size < 0 for size in rest):
        return None
    return prod(size for size in rest if size is not None)


def _extend(
    into: list[Column], spec: TensorSpec, width: int | None, names: Sequence[str] | None, *, is_output: bool
) -> None:
    if width is not None and width <= MAX_ELEMENTS and len(into) + width <= MAX_COLUMNS:
        hashed = spec.datatype == "BYTES"
        is_label = is_output and width == 1 and spec.datatype in _INTEGERS
        kind: Kind = "category" if hashed or is_label else "number"
        for i in range(width):
            name = names[i] if names is not None else spec.name if width == 1 else f"{spec.name}[{i}]"
            into.append(Column(name, spec.name, kind, i, hashed))
        return
    if len(into) + len(SUMMARY) + 1 > MAX_COLUMNS:
        return  # such a model has hundreds of large tensors: the first ones are watched
    into.extend(Column(f"{spec.name}.{part}", spec.name, "summary", i) for i, part in enumerate(SUMMARY))
    if is_output and spec.datatype != "BYTES":
        into.append(Column(f"{spec.name}.top", spec.name, "category", TOP))


def _is_scores(spec: TensorSpec, example: NDArray[Any] | None) -> bool:
    if spec.datatype not in ("FP16", "BF16", "FP32", "FP64"):
        return False
    if example is not None and example.size and np.all(np.isfinite(example)):
        flat = example.reshape(example.shape[0], -1).astype(np.float64)
        if flat.min() >= -1e-6 and float(np.abs(flat.sum(axis=1) - 1.0).max()) < 1e-3:
            return True
    return any(word in spec.name.lower() for word in _SCORE_WORDS)


def _block_dtype(specs: Sequence[TensorSpec], columns: Sequence[Column]) -> Literal["f4", "f8"]:
    kept = {column.tensor for column in columns}
    return "f4" if all(spec.datatype in _NARROW for spec in specs if spec.name in kept) else "f8"


# -- values --------------------------------------------------------------------------------------------------------


def request_hash(request_id: str) -> bytes:
    """The 16 bytes that stand for a request id in rows; the two little-endian halves are hash0 and hash1.

    >>> request_hash("a") == request_hash("a")
    True
    """
    return hashlib.blake2b(request_id.encode(), digest_size=16).digest()


def category_code(value: object) -> float:
    """A category as the number that rows carry: itself, or for text 48 bits of a hash (exact in a float64).

    >>> category_code(True), category_code(3)
    (1.0, 3.0)
    """
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return float(int.from_bytes(hashlib.blake2b(value, digest_size=6).digest(), "little"))
    return float(value)  # type: ignore[arg-type]


_CODES: dict[object, float] = {}
_CODES_LIMIT = 8192  # strings remembered by a process; callers choose them, so the memory is bounded


def _codes(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = values.ravel().tolist()
    if len(_CODES) > _CODES_LIMIT:
        _CODES.clear()
    out = np.empty(len(flat), np.float64)
    for i, value in enumerate(flat):
        code = _CODES.get(value)
        if code is None:
            code = category_code(value if isinstance(value, str | bytes) else str(value))
            if len(_CODES) < _CODES_LIMIT and (not isinstance(value, str | bytes) or len(value) <= 256):
                _CODES[value] = code
        out[i] = code
    return out.reshape(values.shape)


def text_lengths(values: NDArray[Any]) -> NDArray[np.float64]:
    """Characters of each text, of the same shape; NaN where it is empty: there is no other way to say "missing".

    >>> text_lengths(np.array(["größe", ""], object)).tolist()
    [5.0, nan]
    """
    texts = values.ravel().tolist()
    sizes = [len(text if isinstance(text, str) else _text(text)) or nan for text in texts]
    return np.array(sizes, np.float64).reshape(values.shape)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _splitmix64(name: str, count: int) -> NDArray[np.uint64]:
    """The first numbers of an endless sequence: a hash of the place, so that no library's version decides it."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)


class Summary:
    """`SUMMARY` of rows of one width, a row at a time.

    Few calls of numpy, since between two runs of a large model each of them finds the processor's caches empty.
    Extremes and missing are of all numbers; the rest is of `MAX_SUMMED` at most, the same places in every row.
    """

    def __init__(self, name: str, width: int) -> None:
        self.width = width
        self._places = _places(name, width) if width > MAX_SUMMED else None
        self._size = min(width, MAX_SUMMED)
        draws = [_splitmix64(f"{name}/{which}", self._size) >> np.uint64(63) for which in (0, 1)]
        signs = [np.where(draw == 1, 1.0, -1.0) / sqrt(max(1, self._size)) for draw in draws]
        self._weights = np.stack([np.ones(self._size), *signs]).astype(np.float32)

    def of(self, row: NDArray[np.float32], *, with_top: bool) -> list[float]:
        """(width,) → as long as `SUMMARY`, and the place of the largest number if asked for."""
        if not self.width:
            return [nan] * (TOP + with_top)
        low, high = float(np.minimum.reduce(row)), float(np.maximum.reduce(row))  # not finite if any of them is not
        chosen = row if self._places is None else row.take(self._places)
        largest = max(-low, high)
        if not largest < _LARGE or low != low:
            return self._careful(row, chosen, with_top=with_top)
        total, *projections = (self._weights @ chosen).tolist()
        mean = total / self._size
        variance = float(chosen @ chosen) / self._size - mean * mean
        if variance > _SPREAD * mean * mean:
            sd = sqrt(variance)
        else:  # a sum of squares in single precision does not tell it
            mean, sd = (low, 0.0) if low == high else _exact_moments(chosen)
        zeros = np.count_nonzero(chosen == 0) / self._size if low <= 0.0 <= high else 0.0
        top = [float(row.argmax())] if with_top else []
        return [mean, sd, low, high, zeros, 0.0, *projections, *top]

    def _careful(self, row: NDArray[np.float32], chosen: NDArray[np.float32], *, with_top: bool) -> list[float]:
        """The same for a row with numbers that are missing, infinite or very large."""
        good = np.isfinite(row)
        kept = row[good].astype(np.float64)
        low, high = (float(kept.min()), float(kept.max())) if len(kept) else (nan, nan)
        top = [float(np.where(good, row, -np.inf).argmax()) if len(kept) else nan] if with_top else []
        used = np.isfinite(chosen)
        exact = np.where(used, chosen, 0.0).astype(np.float64)
        some = exact[used]
        mean, sd = (float(some.mean()), float(some.std())) if len(some) else (nan, nan)
        zeros = np.count_nonzero(some == 0) / self._size
        projections = np.clip(self._weights[1:] @ exact, -_FLOAT32_MAX, _FLOAT32_MAX).tolist()
        return [mean, sd, low, high, zeros, 1.0 - len(kept) / self.width, *projections, *top]


def _exact_moments(numbers: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation, in double precision; numpy's own take three times the calls."""
    exact = numbers.astype(np.float64)
    mean = float(np.add.reduce(exact)) / len(exact)
    exact -= mean
    return mean, sqrt(float(exact @ exact) / len(exact))


def _places(name: str, width: int) -> NDArray[np.intp]:
    """Which of `width` numbers are summed: a short run at a random place of each of as many equal parts."""
    parts = MAX_SUMMED // _RUN
    ends = np.linspace(0, width, parts + 1).astype(np.int64)
    drawn = _splitmix64(f"{name}/places", parts)
    starts = ends[:-1] + (drawn % (np.diff(ends) - _RUN + 1).astype(np.uint64)).astype(np.int64)
    return (starts[:, np.newaxis] + np.arange(_RUN)).ravel()


class Gatherer:
    """Tensors to a block of rows, compiled for one side of a schema. Not to be shared between threads.

    `gatherer(tensors, rows)` returns (rows, columns) of the block's dtype. A single 2-D tensor of that dtype is
    returned as it is, not copied. A tensor that is absent or has another shape than the schema says gives NaN, never an
    error: logging must not hurt an answer that was right.
    """

    def __init__(self, columns: Sequence[Column], by_rows: bool, dtype: str) -> None:
        self.columns = tuple(columns)
        self._width = len(self.columns)
        self._by_rows = by_rows
        self._dtype = np.dtype(dtype)
        self._parts: list[tuple[str, int, int, bool, bool]] = []  # tensor, start, width, is summary, is text
        self._summaries: dict[str, Summary] = {}
        for at, column in enumerate(self.columns):
            summary = column.kind == "summary" or (column.name.endswith(".top") and column.offset == TOP)
            if self._parts and self._parts[-1][0] == column.tensor:
                name, start, width, was_summary, is_text = self._parts[-1]
                self._parts[-1] = (name, start, width + 1, was_summary, is_text)
            else:
                self._parts.append((column.tensor, at, 1, summary, column.hashed or column.kind == "length"))
        plain = len(self._parts) == 1 and not self._parts[0][3] and not self._parts[0][4]
        self._only = self._parts[0][0] if plain else None

    def is_block(self, only: NDArray[Any], rows: int) -> bool:
        """Whether the one tensor of a side is its block of rows already."""
        return (
            self._only is not None
            and only.dtype == self._dtype
            and only.shape == (rows, self._width)
            and only.flags.c_contiguous
        )

    def __call__(self, tensors: Mapping[str, NDArray[Any]], rows: int) -> NDArray[Any]:
        if self._only is not None:
            only = tensors.get(self._only)
            if only is not None and self.is_block(only, rows):
                return only
        if rows == 1 and len(self._parts) == 1 and self._parts[0][3]:  # one wide tensor: the usual image
            name, _, width, _, _ = self._parts[0]
            tensor = tensors.get(name)
            if tensor is not None and (not self._by_rows or (tensor.ndim and tensor.shape[0] == 1)):
                return np.array(self._summarise(name, tensor.reshape(1, -1), with_top=width > TOP), self._dtype)
        block = np.full((rows, len(self.columns)), np.nan, self._dtype)
        for name, start, width, is_summary, is_text in self._parts:
            tensor = tensors.get(name)
            if tensor is None or rows == 0:
                continue
            if self._by_rows and (tensor.ndim == 0 or tensor.shape[0] != rows):
                continue
            flat = tensor.reshape(rows, -1) if self._by_rows or rows == 1 else None
            if flat is None:
                continue
            if is_summary:
                block[:, start : start + width] = self._summarise(name, flat, with_top=width > TOP)
            elif flat.shape[1] == width:
                block[:, start : start + width] = self._texts(start, flat) if is_text else flat
        return block

    def _texts(self, start: int, flat: NDArray[Any]) -> NDArray[np.float64]:
        """Texts (rows, width) as their columns, from `start` on, want them: codes or lengths."""
        lengths = [column.kind == "length" for column in self.columns[start : start + flat.shape[1]]]
        if all(lengths):
            return text_lengths(flat)
        values = _codes(flat)
        for at in np.flatnonzero(lengths):
            values[:, at] = text_lengths(flat[:, at])
        return values

    def _summarise(self, name: str, flat: NDArray[Any], *, with_top: bool) -> list[list[float]]:
        if flat.dtype.kind in "OSU":
            values = np.array([[len(item) for item in row] for row in flat.tolist()], np.float32)
        else:
            values = flat.astype(np.float32, copy=False)
        summary = self._summaries.get(name)
        if summary is None or summary.width != values.shape[1]:
            summary = self._summaries[name] = Summary(name, values.shape[1])
        return [summary.of(row, with_top=with_top) for row in values]


def gather(
    schema: LogSchema, which: Literal["inputs", "outputs"], tensors: Mapping[str, NDArray[Any]], rows: int
) -> NDArray[Any]:
    """One use of a `Gatherer`: for fits and tests; a worker keeps its gatherers."""
    if which == "inputs":
        return Gatherer(schema.inputs, schema.by_rows, schema.input_dtype)(tensors, rows)
    return Gatherer(schema.outputs, schema.by_rows, schema.output_dtype)(tensors, rows)


# -- rows of lanes of version 1 -----------------------------------------------------------------------------------

_HEAD_BYTES = 72  # of a row, before its features


def row_dtype(schema: LogSchema) -> np.dtype[np.void]:
    """The structured dtype of a row of such a lane. A block's check sum comes first, so it covers all that follows."""
    features = np.dtype((schema.input_dtype, (len(schema.inputs),)))
    outputs = np.dtype((schema.output_dtype, (len(schema.outputs),)))
    outputs_at = _up(_HEAD_BYTES + features.itemsize, outputs.base.itemsize)
    fields: list[tuple[str, Any, int]] = [
        ("block_crc", "<u4", 0),
        ("block_rows", "<u4", 4),
        ("seq", "<u8", 8),
        ("wall_ns", "<i8", 16),
        ("hash0", "<u8", 24),
        ("hash1", "<u8", 32),
        ("epoch", "<u8", 40),
        ("row", "<u4", 48),
        ("rows", "<u4", 52),
        ("queue_us", "<f4", 56),
        ("infer_us", "<f4", 60),
        ("role", "u1", 64),
        ("flags", "u1", 65),
        ("features", features, _HEAD_BYTES),
        ("outputs", outputs, outputs_at),
    ]
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [form for _, form, _ in fields],
            "offsets": [at for _, _, at in fields],
            "itemsize": _up(outputs_at + outputs.itemsize, 8),
        }
    )


def _up(size: int, to: int) -> int:
    return -(-size // to) * to
