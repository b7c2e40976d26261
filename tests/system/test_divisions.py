"""A request that would end a worker by an integer division is answered, by the worker that was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto, helper

from tests.support import models
from tests.support.server import Server, cli, serving

KINDS = {"INT32": TensorProto.INT32, "INT64": TensorProto.INT64}


def dividing(path: Path, kind: int) -> Path:
    """x and y [N] → their quotient q and what is left, r."""
    ends = [models.value(name, kind, ["N"]) for name in "xyqr"]
    nodes = [helper.make_node("Div", ["x", "y"], ["q"]), helper.make_node("Mod", ["x", "y"], ["r"])]
    return models.build(path, nodes, ends[:2], ends[2:])


def ask(server: Server, datatype: str, x: list[int], y: list[int]) -> tuple[int, dict[str, Any]]:
    tensors = [
        {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}
        for name, values in (("x", x), ("y", y))
    ]
    answer = httpx.post(f"{server.data_url}/v2/models/{datatype}/infer", json={"inputs": tensors}, timeout=10)
    return answer.status_code, answer.json()


@pytest.mark.slow
def test_the_smallest_integer_by_minus_1_is_answered_and_ends_no_worker(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    for datatype, kind in KINDS.items():
        path = dividing(tmp_path / f"{datatype}.onnx", kind)
        cli(tmp_path / "home", "register", datatype, str(path), "--alias", "champion")
    with serving(tmp_path / "home", free_port) as server:
        before = server.pids("worker")
        for datatype, smallest in (("INT32", -(2**31)), ("INT64", -(2**63))):
            for _ in range(3):
                status, answer = ask(server, datatype, [smallest, 7, -7], [-1, 2, 2])
                assert status == 200
                assert [output["data"] for output in answer["outputs"]] == [[smallest, 3, -3], [0, 1, 1]]
            status, answer = ask(server, datatype, [1], [0])
            assert (status, answer["code"]) == (500, "inference_failed")
        assert server.pids("worker") == before
