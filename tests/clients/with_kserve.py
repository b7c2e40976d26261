"""What `test_kserve.py` runs in an environment that has the package `kserve`: its two clients, as they come from PyPI.

usage: with_kserve.py HTTP_URL GRPC_ADDRESS MODEL → one JSON object, what each call gave. Nothing of ours is imported,
and KServe's only when it runs: the environment of the tests reads this file too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

ROWS = [[1.0, -2.0, 0.1], [1e-7, 3e30, 0.0]]


def request(model: str, *, binary: bool) -> Any:
    """A request for the rows above."""
    import kserve
    import numpy as np

    one = kserve.InferInput("x", [2, 3], "FP32")
    one.set_data_from_numpy(np.array(ROWS, np.float32), binary_data=binary)
    return kserve.InferRequest(model, [one], request_id="7")


def output(response: Any) -> dict[str, Any]:
    """The first output, and the id."""
    return {"y": response.outputs[0].as_numpy().tolist(), "id": response.id}


async def rest(url: str, model: str) -> dict[str, Any]:
    """Open Inference over HTTP."""
    import httpx
    import kserve
    from kserve.inference_client import RESTConfig

    async with kserve.InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        told = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, model),
            "missing_ready": await client.is_model_ready(url, "missing"),
            "json": output(await client.infer(url, request(model, binary=False), model_name=model)),
            "binary": output(await client.infer(url, request(model, binary=True), model_name=model)),
        }
        try:
            await client.infer(url, request("missing", binary=False), model_name="missing")
        except httpx.HTTPStatusError as error:
            told["missing"] = [error.response.status_code, str(error)]
    return told


async def rest_v1(url: str, model: str) -> dict[str, Any]:
    """KServe's own older protocol."""
    import kserve
    from kserve.inference_client import RESTConfig

    async with kserve.InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        return {
            "live": await client.is_server_live(url),
            "model_ready": await client.is_model_ready(url, model),
            "predictions": await client.infer(url, {"instances": ROWS}, model_name=model),
        }


async def grpc(address: str, model: str) -> dict[str, Any]:
    """Open Inference over gRPC."""
    import kserve

    async with kserve.InferenceGRPCClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "contents": output(await client.infer(request(model, binary=False))),
            "raw": output(await client.infer(request(model, binary=True))),
        }


async def main(url: str, address: str, model: str) -> dict[str, Any]:
    """Every client's answers."""
    return {"v2": await rest(url, model), "v1": await rest_v1(url, model), "grpc": await grpc(address, model)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
