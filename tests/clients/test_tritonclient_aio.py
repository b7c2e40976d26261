"""tritonclient's two clients of coroutines, as they come from PyPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio
import tritonclient.http as triton_http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.support.triton import KINDS, ROWS, TEXTS, Served, check_echo


def inputs(module: Any, values: dict[str, tuple[str, Any]], **binary: bool) -> list[Any]:
    found = []
    for name, (datatype, array) in values.items():
        one = module.InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array, **binary)
        found.append(one)
    return found


X = {"x": ("FP32", ROWS)}


async def same_calls(client: Any, module: Any, served: Served) -> None:
    """What both clients name alike."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("linear")
    assert not await client.is_model_ready("linear", "9")
    check_echo(await client.infer("echo", inputs(module, KINDS)), KINDS)
    check_echo(await client.infer("texts", inputs(module, TEXTS)), TEXTS)
    want = served.want("linear", ROWS).tobytes()
    several = await asyncio.gather(*(client.infer("linear", inputs(module, X)) for _ in range(16)))
    assert all(one.as_numpy("y").tobytes() == want for one in several)
    await client.unload_model("spare")
    try:
        assert not await client.is_model_ready("spare")
    finally:
        await client.load_model("spare")
    assert await client.is_model_ready("spare")
    for call in (client.get_system_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException, match="not offer"):
            await call()
    with pytest.raises(InferenceServerException, match="no model 'missing'"):
        await client.infer("missing", inputs(module, X))


def test_http_aio_does_what_the_plain_client_does(served: Served) -> None:
    async def main() -> None:
        async with tritonclient.http.aio.InferenceServerClient(served.http) as client:
            await same_calls(client, triton_http, served)
            assert (await client.get_server_metadata())["name"] == "driftgate"
            assert (await client.get_model_metadata("linear"))["inputs"][0]["shape"] == [-1, 3]
            assert (await client.get_model_config("linear"))["max_batch_size"] == 64
            names = [one["name"] for one in await client.get_model_repository_index()]
            assert names == ["echo", "fixed", "linear", "spare", "texts"]
            stats = (await client.get_inference_statistics("linear"))["model_stats"]
            assert stats[0]["inference_stats"]["success"]["count"] >= 16
            for binary in (True, False):
                for algorithm in (None, "gzip", "deflate"):
                    result = await client.infer(
                        "linear",
                        inputs(triton_http, X, binary_data=binary),
                        outputs=[triton_http.InferRequestedOutput("y", binary_data=binary)],
                        request_compression_algorithm=algorithm,
                        response_compression_algorithm=algorithm,
                    )
                    assert result.as_numpy("y").tobytes() == served.want("linear", ROWS).tobytes()

    asyncio.run(main())


def test_grpc_aio_does_what_the_plain_client_does_and_streams(served: Served) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, rows in enumerate((ROWS, np.zeros((1, 4), np.float32), ROWS[:1])):
            yield {
                "model_name": "linear",
                "inputs": inputs(triton_grpc, {"x": ("FP32", rows)}),
                "request_id": str(number),
            }

    async def main() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc) as client:
            await same_calls(client, triton_grpc, served)
            assert (await client.get_server_metadata()).name == "driftgate"
            assert list((await client.get_model_metadata("linear")).inputs[0].shape) == [-1, 3]
            assert (await client.get_model_config("linear")).config.max_batch_size == 64
            assert len((await client.get_model_repository_index()).models) == 5
            stats = (await client.get_inference_statistics("linear")).model_stats
            assert stats[0].inference_stats.success.count >= 16
            for algorithm in ("gzip", "deflate"):
                result = await client.infer("linear", inputs(triton_grpc, X), compression_algorithm=algorithm)
                assert result.as_numpy("y").tobytes() == served.want("linear", ROWS).tobytes()
            told = [one async for one in client.stream_infer(requests())]
            assert [None if result is None else result.get_response().id for result, _ in told] == ["0", None, "2"]
            assert "model wants (?, 3)" in str(told[1][1])

    asyncio.run(main())
