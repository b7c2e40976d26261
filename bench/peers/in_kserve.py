"""KServe's Python server, in KServe's environment: `in_kserve.py MODEL NAME [KServe's own flags]`."""

from __future__ import annotations

import argparse
from typing import Any

import kserve
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.utils import generate_uuid
from running import open_model  # type: ignore[import-not-found]


class Model(kserve.Model):  # type: ignore[misc]
    """One model."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(name)
        self._run = open_model(path)
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Answer a request."""
        made = self._run(payload.inputs[0].as_numpy())
        output = InferOutput(name="variable", shape=list(made.shape), datatype="FP32")
        output.set_data_from_numpy(made, binary_data=False)
        return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser], conflict_handler="resolve")
    parser.add_argument("path")
    parser.add_argument("name")
    arguments = parser.parse_args()
    server = kserve.ModelServer(
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        workers=arguments.workers,
        enable_latency_logging=False,
    )
    server.start([Model(arguments.path, arguments.name)])
