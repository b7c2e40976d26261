"""What `test_kserve.py` runs in an environment that has the package `kserve`: its two clients, as they come from PyPI.

usage: with_kserve.py HTTP_URL GRPC_ADDRESS MODEL → one JSON object, what each call gave. Nothing of ours is imported.
"""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

ROWS = np.array([[1.0, -2.0, 0.1], [1e-7, 3e30, 0.0]], np.float32)


def request(model, binary, request_id=None):
    """A request for the rows above."""
    one = InferInput("x", list(ROWS.shape), "FP32")
    one.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model, [one], request_id=request_id)


def output(response):
    """The first output, and the id."""
    return {"y": response.outputs[0].as_numpy().tolist(), "id": response.id}


async def rest(url, model):
    """Open Inference over HTTP."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        told = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, model),
            "missing_ready": await client.is_model_ready(url, "missing"),
            "json": output(await client.infer(url, request(model, False, "7"), model_name=model)),
            "binary": output(await client.infer(url, request(model, True, "7"), model_name=model)),
        }
        try:
            await client.infer(url, request("missing", False), model_name="missing")
        except httpx.HTTPStatusError as error:
            told["missing"] = [error.response.status_code, str(error)]
    return told


async def rest_v1(url, model):
    """KServe's own older protocol."""
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        return {
            "live": await client.is_server_live(url),
            "model_ready": await client.is_model_ready(url, model),
            "predictions": await client.infer(url, {"instances": ROWS.tolist()}, model_name=model),
        }


async def grpc(address, model):
    """Open Inference over gRPC."""
    async with InferenceGRPCClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "contents": output(await client.infer(request(model, False, "7"))),
            "raw": output(await client.infer(request(model, True, "7"))),
        }


async def main(url, address, model):
    """Every client's answers."""
    return {"v2": await rest(url, model), "v1": await rest_v1(url, model), "grpc": await grpc(address, model)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
