"""A LitServe server, in LitServe's environment: `in_litserve.py MODEL PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from running import open_model  # type: ignore[import-not-found]


class Small(litserve.LitAPI):  # type: ignore[misc]
    """One model."""

    def setup(self, device: str) -> None:
        """Open the model, in the worker's process."""
        self._run = open_model(sys.argv[1])

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]  # the framework reads annotations here
        """One row."""
        return np.asarray(request["x"][0], dtype=np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """What waits together, as rows."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run them."""
        return self._run(x)

    def unbatch(self, output: Any) -> Any:
        """One answer each."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """As JSON."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Small(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False)
