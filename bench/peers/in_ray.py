"""Ray Serve, in Ray's environment: `in_ray.py MODEL PORT`, until SIGTERM."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray  # type: ignore[import-not-found]
from ray import serve
from running import open_model  # type: ignore[import-not-found]


@serve.deployment(num_replicas=1, max_ongoing_requests=128, logging_config={"enable_access_log": False})
class Small:
    """One model."""

    def __init__(self, path: str) -> None:
        self._run = open_model(path)

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer a request."""
        body = await request.json()
        return {"y": self._run(body["x"]).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    bound = Small.bind(sys.argv[1])  # type: ignore[attr-defined]
    serve.run(bound, route_prefix="/infer")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
