"""One real server for clients that others wrote: HTTP and gRPC, two workers, load and unload switched on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from tests.support import models
from tests.support.registered import Given, register_all
from tests.support.server import Server
from tests.support.triton import Served

NUMBERS = {
    "half": TensorProto.FLOAT16,
    "brain": TensorProto.BFLOAT16,
    "flag": TensorProto.BOOL,
    "long": TensorProto.INT64,
}
TEXTS = {"text": TensorProto.STRING}  # apart: onnxruntime's Python cannot give bfloat16 beside text


def _echo(path: Path, kinds: Mapping[str, int]) -> Path:
    """Inputs [N, 2], one of each kind, each given back as `NAME_out`."""
    return models.build(
        path,
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [models.value(name, kind, ["N", 2]) for name, kind in kinds.items()],
        [models.value(f"{name}_out", kind, ["N", 2]) for name, kind in kinds.items()],
    )


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, _ports: Iterator[int]) -> Iterator[Served]:
    """A server of `linear`, `echo`, `texts`, `fixed` (always two rows) and `spare`, which tests unload."""
    folder = tmp_path_factory.mktemp("clients")
    given = {
        "linear": Given(models.linear(folder / "linear.onnx")),
        "echo": Given(_echo(folder / "echo.onnx", NUMBERS)),
        "texts": Given(_echo(folder / "texts.onnx", TEXTS)),
        "fixed": Given(models.linear(folder / "fixed.onnx", rows=2)),
        "spare": Given(models.linear(folder / "spare.onnx", seed=1)),
    }
    told = register_all(folder / "home", given)
    assert not [why for why in told.values() if isinstance(why, str)], told
    port, control_port, grpc_port = next(_ports), next(_ports), next(_ports)
    settings = {"gateway__grpc": "on", "gateway__grpc_port": grpc_port, "gateway__repository_control": "true"}
    server = Server(folder / "home", port, control_port, workers=2, **settings)
    try:
        server.start()
        yield Served(server, f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", folder)
    finally:
        server.kill()
