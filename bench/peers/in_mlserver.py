"""A runtime for MLServer, in MLServer's environment."""

from __future__ import annotations

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]
from running import open_model  # type: ignore[import-not-found]


class Model(MLModel):  # type: ignore[misc]
    """Named in model-settings.json."""

    async def load(self) -> bool:
        """Open the model."""
        self._run = open_model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request."""
        made = self._run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("variable", made)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
