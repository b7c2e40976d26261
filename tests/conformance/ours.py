"""Our own server with the suite's models, registered before it starts, side by side: probing is what takes time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gateway import registration
from gateway.settings import Settings
from registry.catalog import Catalog
from registry.home import Home
from tests.conformance.models import MODELS, Model, write_onnx
from tests.conformance.target import Target
from tests.support.server import Server, eventually

# Cases look at what becomes of NaN, so one model may answer it; by default that is an error.
OPTIONS = {"identity_fp32": {"nan": "allow"}}


@contextmanager
def serving(folder: Path, free_port: Callable[[], int]) -> Iterator[Target]:
    """A started server whose models are all ready; gone afterwards."""
    home = Home(folder / "home", folder / "home" / "run")
    home.create()

    def register(model: Model) -> None:
        path = write_onnx(model, folder / f"{model.name}.onnx")
        wanted = registration.Request(model=model.name, path=str(path), options=OPTIONS.get(model.name, {}))
        registration.run_registration(home, Settings(), wanted, lambda what, share: None)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(register, MODELS.values()))
    catalog = Catalog.open(home.database_url)
    for name in MODELS:
        catalog.set_alias(name, "champion", 1, expected=None, actor="conformance")
    catalog.close()
    ports, grpc_port = (free_port(), free_port()), free_port()
    server = Server(home.root, *ports, gateway__grpc="on", gateway__grpc_port=grpc_port)
    ours = Target(server.data_url, f"127.0.0.1:{grpc_port}")
    try:
        server.start()
        eventually(lambda: all(ours.get(f"/v2/models/{name}/ready").status == 200 for name in MODELS), 20)
        yield ours
    finally:
        server.kill()
