"""Sessions of onnxruntime, opened the same way everywhere. The only file that imports onnxruntime.

The probe's child and the workers open models through here, so what was proven is what is served: same providers, same
thread counts, same graph optimisation. Invariant: nothing here writes to the terminal; onnxruntime's own log is off
(models whose declared shapes lie make it warn on every run), its errors are raised with their reason. Light: numpy only
until a session is opened. Thread-safe: a session may be run from several threads at once.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry import maps, providers, run_memory
from registry.errors import ArtifactRejected, InferenceFailed, LoadFailed
from registry.options import ServingOptions
from registry.vocabulary import TensorSpec

# onnxruntime's type → Open Inference datatype. Types that are not here cannot be carried, or are no tensors.
DATATYPES: dict[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
FLOATS = frozenset(("FP16", "BF16", "FP32", "FP64"))  # the datatypes that have NaN and infinity
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class _Dtypes(dict[str, np.dtype[Any]]):
    """A dict that finds "BF16" when it is first asked for: ml_dtypes takes 20 ms, which few workers need."""

    def __missing__(self, datatype: str) -> np.dtype[Any]:
        if datatype != "BF16":
            raise KeyError(datatype)
        import ml_dtypes

        return self.setdefault(datatype, np.dtype(ml_dtypes.bfloat16))


# Open Inference datatype → numpy dtype. BYTES are object arrays of str; "BF16" is listed after its first use.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = _Dtypes(
    BOOL=np.dtype(np.bool_),
    UINT8=np.dtype(np.uint8),
    UINT16=np.dtype(np.uint16),
    UINT32=np.dtype(np.uint32),
    UINT64=np.dtype(np.uint64),
    INT8=np.dtype(np.int8),
    INT16=np.dtype(np.int16),
    INT32=np.dtype(np.int32),
    INT64=np.dtype(np.int64),
    FP16=np.dtype(np.float16),
    FP32=np.dtype(np.float32),
    FP64=np.dtype(np.float64),
    BYTES=np.dtype(np.object_),
)
_LEVELS = {  # names in onnxruntime.GraphOptimizationLevel
    "all": "ORT_ENABLE_ALL",
    "layout": "ORT_ENABLE_LAYOUT",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# "/onnxruntime_src/…/model.cc:47 void onnxruntime::f(const T&, int)::<lambda()> " before the message itself
_WORD = r"(?:[\w~<>*&]|::)+"
_SOURCE_LINE = re.compile(
    rf"(?:/\S+|\w+)\.(?:cc|h):\d+ (?:(?:{_WORD} )*{_WORD}\([^()]*\)(?: const|::<lambda\([^()]*\)>)* |[A-Z]\w+ )?"
)
_FATAL = 4  # onnxruntime's highest log level
CPU_OPTIONS = ServingOptions()


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[Any]: ...
    def get_outputs(self) -> Sequence[Any]: ...
    def get_overridable_initializers(self) -> Sequence[Any]: ...
    def get_providers(self) -> Sequence[str]: ...
    def io_binding(self) -> Any: ...
    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None: ...
    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]: ...
    def run_with_ort_values(
        self, output_names: Sequence[str], feeds: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]: ...


class Runner(Protocol):
    """Computes outputs in a fixed order."""

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> list[NDArray[Any]]:
        """feeds by input name; options of `run_options`."""


def runtime_version() -> str:
    """The version of onnxruntime in this process."""
    import onnxruntime

    return str(onnxruntime.__version__)


def available_providers() -> list[str]:
    """The execution providers of the onnxruntime in this process, by its own names."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def limit_runs(most_bytes: int) -> None:
    """What the runs of bounded sessions may take of this process's memory together; only the first call counts."""
    import onnxruntime

    run_memory.limit(onnxruntime, most_bytes)


def open_session(
    path: Path,
    threads: int = 1,
    options: ServingOptions = CPU_OPTIONS,
    optimized: Path | None = None,
    *,
    is_bounded: bool = False,
) -> Session:
    """Load a model for answering. Slow: reads and optimises the graph.

    `threads` work inside one run (and never spin) unless the options name their own; a run uses one thread across
    nodes. `optimized`: where the optimised model is kept, and read from when it is there. is_bounded: its runs take
    their memory within `limit_runs`, which was called. Raises LoadFailed with onnxruntime's reason; its
    `details["kind"]` is the name of onnxruntime's error class, or `provider`.
    """
    choice = providers.choose(options, available_providers())
    session: Session | None = None
    if optimized is not None and optimized.exists():
        try:
            return _open(optimized, threads, replace(options, graph_optimization="none"), choice, is_bounded=is_bounded)
        except LoadFailed:
            optimized.unlink(missing_ok=True)  # torn, or of a release that wrote it otherwise: made anew below
    aside = None if optimized is None else optimized.with_suffix(f".{os.getpid()}.tmp")
    try:
        session = _open(path, threads, options, choice, aside, is_bounded=is_bounded)
    except LoadFailed as error:
        if choice.first == providers.CPU or options.provider_fallback != "cpu":
            raise
        return _open(path, threads, options, providers.fallen(options, error.message))
    if aside is not None and optimized is not None and aside.exists():
        os.replace(aside, optimized)
    if providers.is_absent(choice, session.get_providers()):
        reason = f"provider {options.provider!r} is not available here: its libraries or a device are missing"
        providers.fallen(options, reason)  # raises unless running on the CPU is declared; this session does
    return session


def _open(
    path: Path,
    threads: int,
    options: ServingOptions,
    choice: providers.Choice,
    optimized: Path | None = None,
    *,
    is_bounded: bool = False,
) -> Session:
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    how = onnxruntime.SessionOptions()
    how.log_severity_level = _FATAL
    how.intra_op_num_threads = options.threads or threads
    how.inter_op_num_threads = 1
    how.enable_cpu_mem_arena = options.memory_arena
    how.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[options.graph_optimization])
    how.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in run_memory.SESSION.items() if is_bounded else ():
        how.add_session_config_entry(key, value)
    if is_ort_format(path):
        how.add_session_config_entry("session.load_model_format", "ORT")
    if optimized is not None:
        optimized.parent.mkdir(parents=True, exist_ok=True)
        how.optimized_model_filepath = str(optimized)
        how.add_session_config_entry("session.save_model_format", "ONNX")
    try:  # without fallback: onnxruntime would print to the terminal and take another provider by itself
        session: Session = onnxruntime.InferenceSession(
            str(path), how, providers=list(choice.providers), enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise LoadFailed(f"the model cannot be loaded: {plain_reason(error)}", kind=type(error).__name__) from error
    return session


def is_ort_format(path: Path) -> bool:
    """Whether the file is in onnxruntime's own format (a flatbuffer) rather than ONNX."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:8] == b"ORTM"
    except OSError:
        return False


def run_options() -> Any:
    """Options for one run, by which another thread may end it: `terminate = True`, obeyed at the model's next node."""
    import onnxruntime

    return onnxruntime.RunOptions()


def run(
    session: Session, feeds: Mapping[str, Any], names: Sequence[str] | None = None, options: Any = None
) -> list[NDArray[Any]]:
    """Run a session of plain tensors once: feeds by input name → outputs in the order of `names` (None: all).

    Raises InferenceFailed with onnxruntime's reason; `details["kind"]` is the name of its error class.
    """
    try:
        outputs = session.run(names, feeds, options)
    except Exception as error:  # as above
        raise InferenceFailed(f"the model failed: {plain_reason(error)}", kind=type(error).__name__) from error
    for output in outputs:
        if not isinstance(output, np.ndarray):
            raise InferenceFailed(f"the model returned a {type(output).__name__}, not a tensor", kind="not_a_tensor")
    return outputs


def runner(session: Session, outputs: Sequence[TensorSpec], io_binding: bool = False) -> Runner:
    """How these outputs of a session are computed. Made once, when a version loads; raises as `run` does.

    Plain tensors go through `run`. bfloat16, for which numpy has no type, goes through onnxruntime's own buffers.
    Sequences of maps come back as one matrix each, a column for each class of the spec.
    """
    names = [spec.name for spec in outputs]
    types = {node.name: node.type for node in session.get_outputs()}
    if io_binding:
        _check_bindable(session, outputs)
        return lambda feeds, options=None: _run_bound(session, feeds, names, options)
    if any(spec.datatype == "BF16" for spec in outputs):
        return lambda feeds, options=None: _run_buffers(session, feeds, names, options)
    keys = {
        place: maps.keys_of(types[spec.name], spec.classes)
        for place, spec in enumerate(outputs)
        if spec.classes is not None
    }
    has_bfloat16 = any(node.type == "tensor(bfloat16)" for node in session.get_inputs())
    if not keys and not has_bfloat16:
        return lambda feeds, options=None: run(session, feeds, names, options)

    def run_converted(feeds: Mapping[str, Any], options: Any = None) -> list[NDArray[Any]]:
        results = run_untouched(session, feeds, names, options)
        return [maps.matrix(one, keys[place]) if place in keys else one for place, one in enumerate(results)]

    return run_converted


def _check_bindable(session: Session, outputs: Sequence[TensorSpec]) -> None:
    unfit = [node.name for node in session.get_inputs() if node.type in ("tensor(string)", "tensor(bfloat16)")]
    unfit += [spec.name for spec in outputs if spec.datatype in ("BYTES", "BF16") or spec.classes is not None]
    if unfit:
        raise LoadFailed(f"io_binding takes plain numbers, which {unfit[0]!r} does not hold", kind="io_binding")


def _run_bound(session: Session, feeds: Mapping[str, Any], names: Sequence[str], options: Any) -> list[NDArray[Any]]:
    try:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.asarray(array, order="C"))
        for name in names:
            binding.bind_output(name)  # onnxruntime allocates it on the CPU, and copies once
        session.run_with_iobinding(binding, options)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
    except Exception as error:  # as above
        raise InferenceFailed(f"the model failed: {plain_reason(error)}", kind=type(error).__name__) from error
    return outputs


def run_untouched(session: Session, feeds: Mapping[str, Any], names: Sequence[str], options: Any = None) -> list[Any]:
    """As `run`, but takes bfloat16 feeds, and gives sequences of maps as lists of dicts."""
    try:
        results: list[Any] = session.run(
            names, {name: _buffer(array) if is_bfloat16(array) else array for name, array in feeds.items()}, options
        )
    except Exception as error:  # as above
        raise InferenceFailed(f"the model failed: {plain_reason(error)}", kind=type(error).__name__) from error
    return results


def _run_buffers(session: Session, feeds: Mapping[str, Any], names: Sequence[str], options: Any) -> list[NDArray[Any]]:
    try:
        values = session.run_with_ort_values(names, {name: _buffer(array) for name, array in feeds.items()}, options)
        return [_bfloat16(value) if value.data_type() == "tensor(bfloat16)" else value.numpy() for value in values]
    except Exception as error:  # as above
        raise InferenceFailed(f"the model failed: {plain_reason(error)}", kind=type(error).__name__) from error


def _buffer(array: NDArray[Any]) -> Any:
    """An array as onnxruntime's own value. It shares the memory, and reads it as if it had no strides."""
    from onnxruntime import OrtValue

    array = np.asarray(array, order="C")
    if is_bfloat16(array):
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return OrtValue.ortvalue_from_numpy(array)


def _bfloat16(value: Any) -> NDArray[Any]:
    """A copy of a bfloat16 value, which onnxruntime itself does not give to numpy."""
    array = np.empty(value.shape(), NUMPY_DTYPES["BF16"])
    ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether an array holds bfloat16, which numpy knows by name only."""
    return array.dtype.name == "bfloat16"


def input_specs(session: Session) -> tuple[TensorSpec, ...]:
    """What the model wants. Raises ArtifactRejected for a type that cannot be served."""
    return tuple(_spec("input", node) for node in session.get_inputs())


def axis_names(session: Session) -> dict[str, tuple[str | None, ...]]:
    """What the model calls the free axes of each input; None for an axis of a fixed size, or without a name."""
    return {
        node.name: tuple(size if isinstance(size, str) and size else None for size in node.shape or ())
        for node in session.get_inputs()
    }


def output_specs(session: Session, names: Sequence[str] | None = None) -> tuple[TensorSpec, ...]:
    """What the model says that it returns, for the outputs named (None: all). Declared shapes may lie.

    A sequence of maps is shown as the matrix that it becomes; its classes are empty until they are known. Raises
    ArtifactRejected for a type that cannot be served, a name that is no output, or a model without outputs.
    """
    nodes = {node.name: node for node in session.get_outputs()}
    if not nodes:
        raise ArtifactRejected("the model has no output, so no request could be answered")
    unknown = [name for name in names or () if name not in nodes]
    if unknown:
        raise ArtifactRejected(f"the model has no output {unknown[0]!r} (it has {', '.join(map(repr, nodes))})")
    alone = "" if len(nodes) == 1 else '; others may be served without it: outputs = ["…"] in --options'
    specs = tuple(_spec("output", nodes[name], alone) for name in (nodes if names is None else names))
    brains = [spec.name for spec in specs if spec.datatype == "BF16"]
    texts = [node.name for node in session.get_inputs() if node.type == "tensor(string)"]
    zipped = [spec.name for spec in specs if spec.classes is not None]
    if brains and (texts or zipped):
        other = f"text input {texts[0]!r}" if texts else f"output {zipped[0]!r} of maps"
        raise ArtifactRejected(
            f"output {brains[0]!r} is of type tensor(bfloat16), which onnxruntime's Python cannot give beside {other}",
            tensor=brains[0],
            type="tensor(bfloat16)",
        )
    return specs


# Why types that are no plain tensors cannot be served, by the start of their names.
_NO_TENSORS = {
    "seq(": "a request or answer of Open Inference holds tensors, not sequences of them",
    "optional(": "a request or answer of Open Inference holds tensors, none of which may be absent",
    "map(": "a request or answer of Open Inference holds tensors, not maps",
    "sparse_tensor(": "a request or answer of Open Inference holds dense tensors only",
}


def _spec(kind: str, node: Any, more: str = "") -> TensorSpec:
    if kind == "output" and node.type in maps.TYPES:
        return TensorSpec(node.name, "FP32", (None, None), classes=())
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        hint = next(
            (why for start, why in _NO_TENSORS.items() if node.type.startswith(start)),
            "Open Inference has no such datatype",
        )
        raise ArtifactRejected(
            f"{kind} {node.name!r} is of type {node.type}, which cannot be served ({hint}{more})",
            tensor=node.name,
            type=node.type,
        )
    return TensorSpec(node.name, datatype, tuple(_dimension(size) for size in node.shape))


def _dimension(size: Any) -> int | None:
    return size if isinstance(size, int) and size >= 0 else None


def plain_reason(error: BaseException) -> str:
    """onnxruntime's message for people: its first line, without error numbers, source files and folders of ours.

    >>> plain_reason(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b/m.onnx failed:No opset"))
    'No opset'
    """
    text = _PREFIX.sub("", str(error))
    text = re.sub(r"Load model from \S+ failed:", "", text)
    text = _SOURCE_LINE.sub("", text)
    text = re.sub(r"(?:/[\w.+@-]+){2,}/", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:400].strip() or type(error).__name__
