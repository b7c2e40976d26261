"""KServe's Python server with the suite's models, in KServe's own environment: `in_kserve.py MODELS.json [flags]`.

Names, datatypes and shapes are checked as onnxruntime would check them, and refused with the framework's own error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kserve
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid


class Model(kserve.Model):  # type: ignore[misc]
    """One model of the suite."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__(about["name"])
        self._about = about
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        """For the metadata."""
        return list(self._about["inputs"])

    async def get_output_types(self) -> list[dict[str, Any]]:
        """For the metadata."""
        return list(self._about["outputs"])

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Answer a request."""
        if not isinstance(payload, InferRequest):
            raise InvalidInput("these models speak V2 only")
        given = {tensor.name: tensor for tensor in payload.inputs}
        declared = {tensor["name"]: tensor for tensor in self._about["inputs"]}
        if set(given) != set(declared) or len(given) != len(payload.inputs):
            raise InvalidInput(f"inputs are {sorted(declared)}, got {[tensor.name for tensor in payload.inputs]}")
        arrays = [self._read(given[name], tensor) for name, tensor in declared.items()]
        if self._about["does"] == "add_sub":
            if arrays[0].shape != arrays[1].shape:
                raise InvalidInput("the inputs differ in shape")
            arrays = [arrays[0] + arrays[1], arrays[0] - arrays[1]]
        outputs = []
        wanted = {output.name for output in payload.request_outputs or []}
        unknown = wanted - {tensor["name"] for tensor in self._about["outputs"]}
        if unknown:
            raise InvalidInput(f"unknown outputs {sorted(unknown)}")
        for tensor, array in zip(self._about["outputs"], arrays, strict=True):
            if not wanted or tensor["name"] in wanted:
                output = InferOutput(name=tensor["name"], shape=list(array.shape), datatype=tensor["datatype"])
                output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
                outputs.append(output)
        return InferResponse(
            response_id=payload.id or generate_uuid(),  # as KServe's own helper does; None is refused there
            model_name=self.name,
            infer_outputs=outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

    def _read(self, tensor: Any, declared: dict[str, Any]) -> Any:
        if tensor.datatype != declared["datatype"]:
            raise InvalidInput(f"{tensor.name} is {declared['datatype']}, got {tensor.datatype}")
        shape, got = declared["shape"], list(tensor.shape)
        if len(shape) != len(got) or any(want not in (-1, n) for want, n in zip(shape, got, strict=True)):
            raise InvalidInput(f"{tensor.name} has the shape {shape}, got {got}")
        return tensor.as_numpy()


if __name__ == "__main__":
    descriptions = json.loads(Path(sys.argv.pop(1)).read_text())
    arguments, _ = kserve.model_server.parser.parse_known_args()
    server = kserve.ModelServer(
        http_port=arguments.http_port, grpc_port=arguments.grpc_port, enable_latency_logging=False
    )
    server.start([Model(about) for about in descriptions])
