"""What the gateway returns is what the model returns alone, bitwise: for real models, alone and among 64 clients."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.demo import data
from gateway.demo import models as demo
from registry import onnx
from tests.support.server import Client, Seen, cli, serving, v2_body

CLIENTS, ROWS = 64, 300


def _tensors(seen: Seen) -> dict[str, NDArray[Any]]:
    outputs = json.loads(seen.body)["outputs"]
    return {
        output["name"]: np.array(output["data"], onnx.NUMPY_DTYPES[output["datatype"]]).reshape(output["shape"])
        for output in outputs
    }


def _check(client: Client, models: dict[str, Path], rows: NDArray[np.float32], asked: Callable[[Seen], int]) -> None:
    assert {seen.status for seen in client.seen} == {200}
    session = onnx.open_session(models[client.model])
    (spec,) = onnx.input_specs(session)
    names = [output.name for output in onnx.output_specs(session)]
    expected = [onnx.run(session, {spec.name: row[None]}, names) for row in rows]
    for seen in client.seen:
        got, want = _tensors(seen), expected[asked(seen)]
        for name, value in zip(names, want, strict=True):
            assert got[name].dtype == value.dtype
            assert got[name].shape == value.shape
            assert got[name].tobytes() == value.tobytes(), (client.model, name, seen.request_id)


async def _ask(client: Client, connections: int, answers: int) -> None:
    load = asyncio.create_task(client.run(connections))
    for _ in range(3000):
        await asyncio.sleep(0.02)
        if len(client.seen) >= answers:
            break
    client.stopping = True
    await load


def _serve_and_compare(
    tmp_path: Path, free_port: Callable[[], int], models: dict[str, Path], reference: Path, flags: list[str],
    rows: NDArray[np.float32], name: str,
) -> None:  # fmt: skip
    home = tmp_path / "home"
    for model, path in models.items():
        cli(home, "register", model, str(path), "--reference", str(reference), *flags, "--alias", "champion")
    bodies = [v2_body(row[None].tolist(), name) for row in rows]
    with serving(home, free_port) as server:
        for model in models:
            for connections, answers in ((1, 150), (CLIENTS, 1500)):
                client = Client(server.port, model, bodies, f"n{connections}")
                asyncio.run(_ask(client, connections, answers))

                def asked(seen: Seen) -> int:
                    _, number, count = seen.request_id.split("-")
                    return (int(number) * 7919 + int(count)) % len(bodies)

                assert len(client.seen) >= answers
                _check(client, models, rows, asked)


def test_the_tabular_models_answer_bitwise_as_onnxruntime_does(
    tmp_path: Path, free_port: Callable[[], int], material: Path
) -> None:
    with gzip.open(material / "data/elec2.csv.gz", "rt") as file:
        lines = file.read().splitlines()
    reference = tmp_path / "reference.csv"
    reference.write_text("\n".join(lines[:3001]) + "\n")
    rows = np.array([line.split(",")[:6] for line in lines[20_000 : 20_000 + ROWS]], dtype=np.float32)
    models = {name: material / f"tabular/{name}.onnx" for name in ("elec2_histgb", "elec2_logreg_columns")}
    _serve_and_compare(tmp_path, free_port, models, reference, ["--target", "class"], rows, "X")


def test_the_demos_models_answer_bitwise_as_onnxruntime_does(tmp_path: Path, free_port: Callable[[], int]) -> None:
    year = data.load_year(data.find_data())
    trained = demo.train(year.training, np.random.default_rng(5))
    paths = demo.write(trained, tmp_path)
    reference = tmp_path / "reference.csv"
    data.write_reference(year.training, reference, 3000, np.random.default_rng(6))
    models = {f"flights{number}": path for number, path in paths.items()}
    rows = year.training.features[:ROWS]
    (spec,) = onnx.input_specs(onnx.open_session(paths[1]))
    _serve_and_compare(tmp_path, free_port, models, reference, ["--target", data.TARGET], rows, spec.name)
