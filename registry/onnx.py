"""Sessions of onnxruntime, opened the same way everywhere. The only file that imports onnxruntime.

The probe's child and the workers open models through here, so what was proven is what is served: same providers, same
thread counts, same graph optimisation. Invariant: nothing here writes to the terminal; onnxruntime's own log is off
(models whose declared shapes lie make it warn on every run), its errors are raised with their reason. Light: numpy only
until a session is opened. Thread-safe: a session may be run from several threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.errors import ArtifactRejected, InferenceFailed, LoadFailed
from registry.vocabulary import TensorSpec

# onnxruntime's type → Open Inference datatype. Types that are not here have no numpy type, or are no tensors.
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
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# Open Inference datatype → numpy dtype. BYTES are object arrays of str.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# "/onnxruntime_src/…/model.cc:47 void onnxruntime::f(const T&, int)::<lambda()> " before the message itself
_WORD = r"(?:[\w~<>*&]|::)+"
_SOURCE_LINE = re.compile(
    rf"(?:/\S+|\w+)\.(?:cc|h):\d+ (?:(?:{_WORD} )*{_WORD}\([^()]*\)(?: const|::<lambda\([^()]*\)>)* |[A-Z]\w+ )?"
)
_FATAL = 4  # onnxruntime's highest log level


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[Any]: ...
    def get_outputs(self) -> Sequence[Any]: ...
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]: ...


def runtime_version() -> str:
    """The version of onnxruntime in this process."""
    import onnxruntime

    return str(onnxruntime.__version__)


def open_session(path: Path, threads: int = 1, provider: str = "cpu") -> Session:
    """Load a model for answering. Slow: reads and optimises the graph.

    `threads` work inside one run (and never spin); a run uses one thread across nodes. Raises LoadFailed with
    onnxruntime's reason; its `details["kind"]` is the name of onnxruntime's error class.
    """
    import onnxruntime

    name = _PROVIDERS.get(provider)
    if name is None or name not in onnxruntime.get_available_providers():
        known = [key for key, value in _PROVIDERS.items() if value in onnxruntime.get_available_providers()]
        raise LoadFailed(
            f"provider {provider!r} is not available here (available: {', '.join(known)})", kind="provider"
        )
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if is_ort_format(path):
        options.add_session_config_entry("session.load_model_format", "ORT")
    try:
        session: Session = onnxruntime.InferenceSession(str(path), options, providers=[name])
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


def run(session: Session, feeds: Mapping[str, Any], names: Sequence[str] | None = None) -> list[NDArray[Any]]:
    """Run a session once: feeds by input name → outputs in the order of `names` (None: all, as declared).

    Raises InferenceFailed with onnxruntime's reason; `details["kind"]` is the name of its error class.
    """
    try:
        outputs = session.run(names, feeds)
    except Exception as error:  # as above
        raise InferenceFailed(f"the model failed: {plain_reason(error)}", kind=type(error).__name__) from error
    for output in outputs:
        if not isinstance(output, np.ndarray):
            raise InferenceFailed(f"the model returned a {type(output).__name__}, not a tensor", kind="not_a_tensor")
    return outputs


def input_specs(session: Session) -> tuple[TensorSpec, ...]:
    """What the model wants. Raises ArtifactRejected for a type that cannot be served."""
    return tuple(_spec("input", node) for node in session.get_inputs())


def output_specs(session: Session, names: Sequence[str] | None = None) -> tuple[TensorSpec, ...]:
    """What the model says that it returns, for the outputs named (None: all). Declared shapes may lie.

    Raises ArtifactRejected for a type that cannot be served, or a name that is no output.
    """
    nodes = {node.name: node for node in session.get_outputs()}
    unknown = [name for name in names or () if name not in nodes]
    if unknown:
        raise ArtifactRejected(f"the model has no output {unknown[0]!r} (it has {', '.join(map(repr, nodes))})")
    return tuple(_spec("output", nodes[name]) for name in (nodes if names is None else names))


def _spec(kind: str, node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        hint = ""
        if "map" in node.type:
            hint = ' (export it again without ZipMap, or serve the other outputs: outputs = ["…"] in --options)'
        elif not node.type.startswith("tensor("):
            hint = " (only tensors are served)"
        else:
            hint = " (numpy has no such type)"
        raise ArtifactRejected(
            f"{kind} {node.name!r} is of type {node.type}, which cannot be served{hint}",
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
