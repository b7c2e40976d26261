"""A model for Triton's Python backend: what its batcher joined runs as one. Copied into the repository as model.py."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as backend  # type: ignore[import-not-found]
from running import open_model  # type: ignore[import-not-found]


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model."""
        self._run = open_model(json.loads(args["model_config"])["parameters"]["path"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests."""
        rows = [backend.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        made = self._run(rows[0] if len(rows) == 1 else np.concatenate(rows))
        responses, start = [], 0
        for some in rows:
            part = made[start : start + len(some)]
            responses.append(backend.InferenceResponse([backend.Tensor("variable", part)]))
            start += len(some)
        return responses
