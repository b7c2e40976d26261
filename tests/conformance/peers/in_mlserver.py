"""A runtime for MLServer that does what the suite's models do, by the framework's codecs, in MLServer's environment.

Names, datatypes and shapes are checked as onnxruntime would check them, and refused with the framework's own error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec, StringCodec  # type: ignore[import-not-found]
from mlserver.errors import InferenceError  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput  # type: ignore[import-not-found]


class Model(MLModel):  # type: ignore[misc]
    """`parameters.extra` of model-settings.json is the model's description."""

    async def load(self) -> bool:
        """Nothing to load."""
        self._about = self.settings.parameters.extra
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request."""
        given = {tensor.name: tensor for tensor in payload.inputs}
        declared = {tensor["name"]: tensor for tensor in self._about["inputs"]}
        if set(given) != set(declared) or len(given) != len(payload.inputs):
            raise InferenceError(f"inputs are {sorted(declared)}, got {[tensor.name for tensor in payload.inputs]}")
        arrays = [self._read(given[name], tensor) for name, tensor in declared.items()]
        if self._about["does"] == "add_sub":
            if arrays[0].shape != arrays[1].shape:
                raise InferenceError("the inputs differ in shape")
            arrays = [arrays[0] + arrays[1], arrays[0] - arrays[1]]
        outputs = {tensor["name"]: array for tensor, array in zip(self._about["outputs"], arrays, strict=True)}
        wanted = [output.name for output in payload.outputs or []] or list(outputs)
        unknown = set(wanted) - set(outputs)
        if unknown:
            raise InferenceError(f"unknown outputs {sorted(unknown)}")
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[self._write(name, outputs[name]) for name in wanted],
        )

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """Answer the requests of a stream."""
        async for payload in payloads:
            yield await self.predict(payload)

    def _read(self, tensor: Any, declared: dict[str, Any]) -> Any:
        kind = getattr(tensor.datatype, "value", tensor.datatype)
        if kind != declared["datatype"]:
            raise InferenceError(f"{tensor.name} is {declared['datatype']}, got {kind}")
        shape = declared["shape"]
        if len(shape) != len(tensor.shape) or any(w not in (-1, n) for w, n in zip(shape, tensor.shape, strict=True)):
            raise InferenceError(f"{tensor.name} has the shape {shape}, got {tensor.shape}")
        if kind == "BYTES":
            return np.array(StringCodec.decode_input(tensor), dtype=object).reshape(tensor.shape)
        return NumpyCodec.decode_input(tensor)

    def _write(self, name: str, array: Any) -> ResponseOutput:
        codec = StringCodec if array.dtype == object else NumpyCodec
        output = codec.encode_output(name, array.ravel().tolist() if array.dtype == object else array)
        output.shape = list(array.shape)
        return output
