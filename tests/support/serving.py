"""A worker without sockets: real sessions, real lanes and pages, an ASGI caller in the same event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway.control.table import RouteTable
from gateway.data.routes import AspiredVersion, RouteEntry
from gateway.data.worker import Worker, compose
from gateway.settings import Settings
from monitor.record import make_log_schema
from registry import onnx
from registry.clock import Clock, SystemClock
from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions

BOOT = "ab" * 16


def aspire(
    model_path: Path,
    *,
    batch: str = "exact",
    by_rows: bool = True,
    limits: tuple[tuple[float, float] | None, ...] | None = None,
    options: ServingOptions | None = None,
    loops: bool = False,
) -> AspiredVersion:
    """A version of this model file, with a manifest as registration would have written it."""
    session = onnx.open_session(model_path)
    inputs, outputs = onnx.input_specs(session), onnx.output_specs(session)
    manifest = Manifest(
        files=(FileDigest("model.onnx", "0" * 64, model_path.stat().st_size),),
        options=options or ServingOptions(),
        profile=None,
        golden=None,
        inputs=inputs,
        outputs=outputs,
        probe=ProbeResult(
            run="proven",
            reason="",
            batch="exact" if batch == "exact" else "never",
            batch_reason="",
            by_rows=by_rows,
            rows_tried=8,
            onnxruntime="any",
            joined_rows=64,
            loops=loops,
        ),
        log_schema=make_log_schema(inputs, outputs, by_rows).to_dict(),
    )
    path = model_path.with_suffix(".json")
    path.write_text(manifest.to_json())
    return AspiredVersion(str(model_path), str(path), limits)


@dataclass
class Answer:
    """What one request got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Bench:
    """A worker, its route table, and a way to ask it."""

    worker: Worker
    table: RouteTable
    models: dict[str, RouteEntry] = field(default_factory=dict)

    async def route(self, model: str, entry: RouteEntry) -> None:
        """Publish a route and wait until the worker has settled on it."""
        self.models[model] = entry
        self.table.publish(self.models)
        self.table.renew(60.0)
        for _ in range(500):
            self.worker.beat.step()
            loaded = self.worker.fleet._loaded.get(model, {})
            if self.worker.fleet.settled() and all(version in loaded for version in entry.aspired):
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{model} did not settle: {self.worker.fleet._states}")

    async def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> Answer:
        """One request, as uvicorn would hand it to the app."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        parts = list(chunks) if chunks is not None else [raw]
        given = {"content-type": "application/json", **(headers or {})}
        if chunks is None:
            given.setdefault("content-length", str(len(raw)))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "state": {},
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            part = parts.pop(0) if parts else b""
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.worker.app(scope, receive, send)
        start, *rest = sent
        names = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], names, b"".join(message.get("body", b"") for message in rest))

    async def infer(self, model: str, rows: Any, *, headers: Mapping[str, str] | None = None) -> Answer:
        """One V2 request on input `x` of FP32."""
        array = np.asarray(rows, dtype=np.float32)
        tensor = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
        return await self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor]}, headers=headers)


def with_worker(
    run: Path,
    body: Callable[[Bench], Awaitable[None]],
    settings: Settings | None = None,
    clock: Clock | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    *,
    boot: str = BOOT,
    ended_by: int = 0,
) -> None:
    """Run a coroutine with a worker in its own event loop, and close everything after it.

    ended_by: the signal by which the worker ended that left its page there.
    """

    async def main() -> None:
        time = clock or SystemClock()
        run.mkdir(parents=True, exist_ok=True)
        table = RouteTable(run, boot, time)
        worker = compose(0, run, boot, settings or Settings(), time, ended_by)
        try:
            await body(Bench(worker, table))
        finally:
            worker.close()
            worker.page.close()
            table.close()

    with np.errstate(all="ignore"), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
