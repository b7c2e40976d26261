"""One loaded version: what it takes, what it gives, and who is using it.

Invariant: a session is let go only when it has no lease. Leases are counted on the worker's event loop only, so a
plain integer is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from sys import maxsize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.curve import Curve
from gateway.data.joining import Joining
from gateway.data.named_axes import disagreement
from registry import onnx, providers, run_memory
from registry.errors import InferenceFailed, NotReady, PayloadTooLarge, StateDamaged, TensorMismatch
from registry.manifest import Manifest
from registry.vocabulary import TensorSpec

Tensor = NDArray[Any]
Run = Callable[..., list[Tensor]]  # as onnx.Runner
MOST_EMPTY_ROWS = 65_536
MOST_TEXTS = 1 << 20  # each is a Python object: a body of 64 MiB could hold 16 million, and stop the loop for seconds


@dataclass(frozen=True, slots=True)
class InputSlot:
    """One declared input, with what the codecs need to fill it."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    row_width: int | None = None  # the number of values a row, for a FP32 matrix with a free number of rows
    never_empty: frozenset[int] = frozenset()  # axes of which a size of 0 would end the process

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise TensorMismatch unless a tensor of this shape fits the declaration.

        Raises PayloadTooLarge for one of very many texts, and for one without elements whose other axes are long: rows
        that cost the caller no byte would cost us memory.
        """
        if self.dtype.kind == "O" and prod(shape) > MOST_TEXTS:
            raise PayloadTooLarge(
                f'input "{self.spec.name}" has {prod(shape)} texts, the limit is {MOST_TEXTS}',
                limit_elements=MOST_TEXTS,
            )
        if 0 in shape and prod(size for size in shape if size) > MOST_EMPTY_ROWS:
            raise PayloadTooLarge(
                f'input "{self.spec.name}": a tensor without elements may hold {MOST_EMPTY_ROWS} empty rows, '
                f"got shape {_shape_text(shape)}",
                limit_rows=MOST_EMPTY_ROWS,
            )
        if self.never_empty and 0 in shape:
            self.check_empty(shape)
        wanted = self.spec.shape
        if wanted is None:
            return
        if len(shape) == len(wanted):
            for got, want in zip(shape, wanted, strict=True):
                if want is not None and got != want:
                    break
            else:
                return
        raise TensorMismatch(
            f'input "{self.spec.name}": got shape {_shape_text(shape)}, model wants {_shape_text(wanted)}',
            input=self.spec.name,
        )

    def check_empty(self, shape: Sequence[int]) -> None:
        """Raise TensorMismatch for a tensor without elements that was seen to end the process."""
        for axis in self.never_empty:
            if axis < len(shape) and shape[axis] == 0:
                raise TensorMismatch(
                    f'input "{self.spec.name}": got shape {_shape_text(shape)}, the model cannot take 0 on axis {axis}',
                    input=self.spec.name,
                )


def _shape_text(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


class Servable:
    """A version that can answer. Made by `load`, which is slow; everything else is cheap."""

    def __init__(
        self,
        model: str,
        version: int,
        session: Any,
        manifest: Manifest,
        default_max_rows: int,
        *,
        is_bounded: bool = False,
    ) -> None:
        """is_bounded: the session's runs take their memory within `onnx.limit_runs`."""
        self.model = model
        self.version = version
        self.manifest = manifest
        never_empty = manifest.probe.never_empty
        self.slots = tuple(_slot(spec, never_empty) for spec in manifest.inputs)
        self.slot_index: Mapping[str, int] = {slot.spec.name: i for i, slot in enumerate(self.slots)}
        self.input_names = [slot.spec.name for slot in self.slots]
        self.output_names = [spec.name for spec in manifest.outputs]
        self.output_datatypes = [spec.datatype for spec in manifest.outputs]
        self.float_outputs = [i for i, spec in enumerate(manifest.outputs) if spec.datatype in onnx.FLOATS]
        self._run: Run = (
            _not_loaded if session is None else _runner(session, manifest, self.slots, is_bounded=is_bounded)
        )
        self._unmarked: Run | None = None  # while its runs are marked
        self.axis_names = {} if session is None else onnx.axis_names(session)
        # Why it runs where it was not meant to.
        is_plain = session is None or manifest.options.provider == "cpu"
        self.elsewhere = "" if is_plain else providers.told(manifest.options, session.get_providers())
        self.by_rows = manifest.probe.by_rows
        batching = manifest.batching
        self.max_rows = min(default_max_rows, manifest.options.max_batch_rows or default_max_rows)
        if batching.kind != "never":
            self.max_rows = max(1, min(self.max_rows, batching.rows_proven))
        self.fixed_row_shape = all(
            slot.spec.shape is not None and None not in slot.spec.shape[1:] for slot in self.slots
        )
        self.joining = Joining(batching, fixed_row_shape=self.fixed_row_shape)
        # Only what registration proved is joined; a run of one row has nothing to join.
        self.joinable = batching.kind != "never" and self.max_rows > 1
        self.refuses_nonfinite = manifest.options.nan == "refuse"
        self.curve: Curve | None = None  # what warm-up measured
        self.answer_bytes = maxsize  # of one output, in the answer to one request; more is refused
        self.leases = 0

    @property
    def has_steady_runs(self) -> bool:
        """Whether what a run takes was seen at registration: inputs, or so many rows, of one shape, whoever asks."""
        if self.manifest.probe.loops:
            return False
        if all(slot.spec.shape is not None and None not in slot.spec.shape for slot in self.slots):
            return True
        return self.by_rows and self.fixed_row_shape and self.joinable and self.joining.are_rows

    def reads_like(self, other: Servable) -> bool:
        """Whether any request is read into the same tensors for either."""
        if self is other:
            return True
        return self._reading() == other._reading()

    def _reading(self) -> tuple[object, ...]:
        schema = self.manifest.log_schema
        return self.slots, self.output_names, self.refuses_nonfinite, None if schema is None else schema["inputs"]

    def close(self) -> None:
        """Let the session go, whoever still knows this servable: an idle connection keeps its last request's."""
        self._run, self._unmarked = _not_loaded, None

    def mark_runs(self, mark: AbstractContextManager[None] | None) -> None:
        """Enter this around each run from now on, on whatever thread; None: nothing."""
        if self._unmarked is not None:
            self._run, self._unmarked = self._unmarked, None
        if mark is None:
            return
        self._unmarked = self._run
        self._run = _marked(self._run, mark)

    def mark_all_runs(self, mark: AbstractContextManager[None]) -> None:
        """Enter this around each run for good, besides what `mark_runs` says. Called before that."""
        self._run = _marked(self._run, mark)

    def run(self, feeds: Sequence[Tensor], options: Any = None) -> list[Tensor]:
        """Run once. Feeds are in the order of `slots`, options of `run_options`. Raises InferenceFailed."""
        return self._run(dict(zip(self.input_names, feeds, strict=True)), options)

    @staticmethod
    def run_options() -> Any:
        """Options of one run, by which it can be ended early."""
        return onnx.run_options()

    def tune(self, chosen_rows: int) -> None:
        """Join at most so many rows in one run, as warm-up chose; never more than was proven."""
        if self.joinable:
            self.max_rows = max(1, min(self.max_rows, chosen_rows))
            self.joinable = self.max_rows > 1

    def rows_of(self, feeds: Sequence[Tensor]) -> int:
        """How many rows one request's feeds hold; may be none. Raises TensorMismatch when its inputs disagree."""
        if not self.by_rows:
            return 1
        try:
            rows = len(feeds[0])
            if len(feeds) == 1:
                return rows
            for slot, feed in zip(self.slots, feeds, strict=True):
                if len(feed) != rows:
                    raise TensorMismatch(
                        f'input "{slot.spec.name}" has {len(feed)} rows, "{self.slots[0].spec.name}" has {rows}',
                        input=slot.spec.name,
                    )
        except TypeError:  # an input of no declared rank, and a request that sends it without axes
            raise TensorMismatch("the model takes rows: an input without axes holds none") from None
        return rows

    def disagreement(self, shapes: Mapping[str, Sequence[int]]) -> TensorMismatch | None:
        """Why a run of inputs of these shapes, by name, must have failed; None: for another reason."""
        return disagreement(self.axis_names, shapes)

    def shape_bucket(self, feeds: Sequence[Tensor], rows: int) -> int:
        """The bucket of shapes in which a run's time is learned: 0 where all rows have one shape, else by elements.

        feeds: of one request or of a joined run; rows: what they hold.
        """
        if self.fixed_row_shape and self.by_rows:
            return 0
        return (sum(feed.size for feed in feeds) // max(1, rows)).bit_length()


def _slot(spec: TensorSpec, never_empty: Sequence[tuple[str, int]]) -> InputSlot:
    axes = frozenset(axis for name, axis in never_empty if name == spec.name)
    is_matrix = spec.datatype == "FP32" and spec.shape is not None and len(spec.shape) == 2 and spec.shape[0] is None
    return InputSlot(spec, onnx.NUMPY_DTYPES[spec.datatype], spec.shape[1] if is_matrix and spec.shape else None, axes)


def _runner(session: Any, manifest: Manifest, slots: Sequence[InputSlot], *, is_bounded: bool) -> onnx.Runner:
    """How it is run; nothing that would end the process is, whoever asks: a shadow gets what the champion takes."""
    run = onnx.runner(session, manifest.outputs, manifest.options.io_binding)
    if is_bounded:
        run = run_memory.within(run)
    if not manifest.probe.never_empty:
        return run

    def checked(feeds: Mapping[str, Any], options: Any = None) -> list[Tensor]:
        try:
            for slot in slots:
                slot.check_empty(feeds[slot.spec.name].shape)
        except TensorMismatch as error:
            raise InferenceFailed(error.message) from None
        return run(feeds, options)

    return checked


def _marked(run: Run, mark: AbstractContextManager[None]) -> Run:
    def marked(feeds: Mapping[str, Any], options: Any = None) -> list[Tensor]:
        with mark:
            return run(feeds, options)

    return marked


def _not_loaded(_feeds: Mapping[str, Any], _options: Any = None) -> list[Tensor]:
    raise NotReady("the version is described, not loaded")


def describe(model: str, version: int, manifest_path: Path, max_rows: int) -> Servable:
    """What a version takes and gives, without its session. Raises StateDamaged."""
    try:
        return Servable(model, version, None, Manifest.from_json(manifest_path.read_bytes()), max_rows)
    except OSError as error:
        raise StateDamaged(f"the manifest of {model}:{version} cannot be read: {error}") from None


def load(model: str, version: int, model_path: Path, manifest_path: Path, threads: int, max_rows: int) -> Servable:
    """Open a version's session. Slow; run it away from the event loop. Raises LoadFailed or StateDamaged.

    Where `onnx.limit_runs` was called, it is for runs on the CPU whose requests say what they take.
    """
    manifest = Manifest.from_json(manifest_path.read_bytes())
    options, optimized = manifest.options, None
    if options.cache_optimized:
        name = providers.optimized_name(manifest.loaded.sha256, options, onnx.runtime_version())
        optimized = manifest_path.parent.parent / "optimized" / name
    is_steady = Servable(model, version, None, manifest, max_rows).has_steady_runs
    is_bounded = run_memory.most_bytes() > 0 and options.provider == "cpu" and not is_steady
    session = onnx.open_session(model_path, threads, options, optimized, is_bounded=is_bounded)
    return Servable(model, version, session, manifest, max_rows, is_bounded=is_bounded)
