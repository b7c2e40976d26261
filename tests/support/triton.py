"""What tests of Triton's clients share: where the server is, and what its models answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from registry import onnx
from tests.support.server import Server

ROWS: NDArray[np.float32] = np.array([[1.0, -2.0, 0.1], [1e-7, 3e30, 0.0]], np.float32)

KINDS: dict[str, tuple[str, NDArray[Any]]] = {
    "half": ("FP16", np.array([[1.5, -65504.0], [0.0, 6e-8]], np.float16)),
    "brain": ("BF16", np.array([[1.5, -2.0], [0.0, 3.3895314e38]], ml_dtypes.bfloat16)),
    "flag": ("BOOL", np.array([[True, False], [False, False]])),
    "long": ("INT64", np.array([[2**62, -1], [0, 7]], np.int64)),
}
TEXTS: dict[str, tuple[str, NDArray[Any]]] = {
    "text": ("BYTES", np.array([["größe 数".encode(), b""], [b"a\0b", b"\x22\\"]], np.object_))
}
# What JSON can carry of them.
JSON_KINDS = {"flag": KINDS["flag"], "long": KINDS["long"]}


@dataclass(frozen=True)
class Served:
    """A running server."""

    server: Server
    http: str  # host and port
    grpc: str
    folder: Path

    def want(self, model: str, rows: NDArray[np.float32]) -> NDArray[Any]:
        """What onnxruntime alone answers to `x`."""
        path = self.folder / f"{model}.onnx"
        session = onnx.open_session(path)
        return onnx.runner(session, onnx.output_specs(session))({"x": rows})[0]


def check_echo(result: Any, kinds: dict[str, tuple[str, NDArray[Any]]]) -> None:
    """Every kind came back as it was sent."""
    for name, (_, sent) in kinds.items():
        got = result.as_numpy(f"{name}_out")
        assert got.shape == sent.shape, name
        assert got.tolist() == sent.tolist(), name
