"""What the suite's models do, for Triton's Python backend. Copied into the model repository as model.py.

Triton itself checks names, datatypes and shapes against config.pbtxt before this is asked.
"""

from __future__ import annotations

import json
from typing import Any

import triton_python_backend_utils as backend  # type: ignore[import-not-found]


class TritonPythonModel:
    """What the backend looks for. The parameter `does` of the configuration says which model it is."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration."""
        self._config = json.loads(args["model_config"])
        self._does = self._config["parameters"]["does"]["string_value"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = [backend.get_input_tensor_by_name(request, tensor["name"]) for tensor in self._config["input"]]
        names = [tensor["name"] for tensor in self._config["output"]]
        if self._does == "add_sub":
            left, right = (tensor.as_numpy() for tensor in inputs)
            if left.shape != right.shape:
                return backend.InferenceResponse(error=backend.TritonError("the inputs differ in shape"))
            made = [
                backend.Tensor(name, array) for name, array in zip(names, (left + right, left - right), strict=True)
            ]
        elif self._config["input"][0]["data_type"] == "TYPE_BF16":  # numpy has no such type: handed on as it lies
            made = [backend.Tensor.from_dlpack(names[0], inputs[0].to_dlpack())]
        else:
            made = [backend.Tensor(name, tensor.as_numpy()) for name, tensor in zip(names, inputs, strict=True)]
        wanted = request.requested_output_names()
        return backend.InferenceResponse([tensor for tensor in made if tensor.name() in wanted])
