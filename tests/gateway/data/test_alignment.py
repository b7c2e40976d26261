"""Where a tensor lies in a request's body must not show in the answer: onnxruntime's sums depend on the address."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gateway.data.codecs.raw import aligned
from gateway.data.routes import RouteEntry
from registry import onnx
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

SHAPE = (1, 3, 17, 19)


def moved(array: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    """The same values at an address that leaves this rest after division by 64."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + by
    view = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def normalisation(path: Path) -> Path:
    """y = x normalised per channel: sums over many numbers."""
    weights = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    nodes = [helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"])]
    ends = [models.value("x", TensorProto.FLOAT, list(SHAPE))], [models.value("y", TensorProto.FLOAT, list(SHAPE))]
    return models.build(path, nodes, *ends, weights)


def test_a_large_array_is_copied_only_where_it_lies_otherwise_than_numpys_own() -> None:
    for by in (0, 16, 32, 48):
        array = moved(np.ones(5000, np.float32), by)
        assert aligned(array) is array
    for by, count in ((1, 4), (4, 4), (4, 5000), (8, 5000), (20, 5000)):
        array = moved(np.ones(count, np.float32), by)
        assert aligned(array).ctypes.data % 16 == 0
        assert aligned(array).tolist() == array.tolist()
    whole = moved(np.ones(5000, np.float32), 4).view(np.int32)
    assert aligned(whole) is whole  # sums of integers are the same in any order


def test_an_answer_does_not_depend_on_how_long_the_json_before_a_tensor_is(tmp_path: Path) -> None:
    path = normalisation(tmp_path / "a.onnx")
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    session = onnx.open_session(path)
    (want,) = onnx.run(session, {"x": x})
    alone = {onnx.run(session, {"x": moved(x, by)})[0].tobytes() for by in range(0, 64, 4)}
    assert len(alone) > 1  # so there is something to get wrong

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, batch="never", by_rows=False)}))
        for padding in range(16):
            tensor = {"name": "x", "datatype": "FP32", "shape": list(SHAPE)}
            document = {
                "id": "i" * (padding + 1),
                "inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}],
                "parameters": {"binary_data_output": True},
            }
            head = json.dumps(document).encode()
            headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
            answer = await bench.ask("/v2/models/m/infer", head + x.tobytes(), headers=headers)
            assert answer.status == 200
            assert answer.body[int(answer.headers["inference-header-content-length"]) :] == want.tobytes()

    with_worker(tmp_path / "run", body)
