"""What every peer does with a row: onnxruntime with one thread. Copied beside each adapter, run in its environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime


def open_model(path: str) -> Callable[[Any], Any]:
    """Rows in, (n, 30) float32; predictions out, (n, 1) float32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]

    def run(rows: Any) -> Any:
        return session.run(outputs, {name: np.ascontiguousarray(rows, dtype=np.float32)})[0]

    return run
