"""Whether a server can run here, tried for real: a model is run, bytes are written, ports are bound.

Invariant: looking changes nothing that stays: a missing state folder is not made, and what a check wrote it removes.
Each check answers with one finding; an unexpected fault in one is that check's finding, never the end of the others.
Called by `driftgate doctor`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.client_control import TOKEN_VARIABLE, ControlClient
from gateway.grpc_port import FLAG, HOW_TO_INSTALL, is_installed
from gateway.serve_lock import PortTaken, Serving, read_lock, take_port
from gateway.settings import GatewaySettings, Settings
from registry.clock import SystemClock
from registry.errors import ServingError
from registry.home import Home

Status = Literal["ok", "warning", "failed"]

_OLDEST_PYTHON = (3, 11)
_LANES_A_WORKER = 8  # champion, canary, shadow and direct lanes of two versions
_CLOCK_STEP_S = 0.05
_EARLIEST_WALL_S = 1_735_689_600  # 2025-01-01: a wall clock before that was never set


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. `advice` says what to do when status is not ok."""

    name: str
    status: Status
    told: str
    advice: str = ""


def examine(home: Home, settings: Settings, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """All findings, in the order a reader needs them. Takes about a second."""
    serving = read_lock(home)
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", check_python),
        ("onnxruntime", check_onnxruntime),
        ("text models", check_text_models),
        ("state folder", lambda: check_folder(home.root)),
        ("room for lanes", lambda: check_room(home, settings)),
        ("data port", lambda: check_port("data port", settings.gateway.host, settings.gateway.port, "--port", serving)),
        ("grpc port", lambda: check_grpc(settings.gateway, serving)),
        (
            "control port",
            lambda: check_port("control port", settings.control.host, settings.control.port, "--control-port", serving),
        ),
        ("clocks", check_clocks),
        ("server", lambda: check_server(home, serving, environ)),
    )
    return tuple(_tried(name, check) for name, check in checks)


def check_python() -> Finding:
    """The interpreter and the kernel."""
    told = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", "failed", told, "Driftgate needs Python 3.11 or newer")
    if sys.platform != "linux":
        return Finding("python", "warning", told, "elsewhere than Linux there is one worker")
    return Finding("python", "ok", told)


def check_onnxruntime() -> Finding:
    """Make a model that doubles two numbers, run it, and compare the answer."""
    import numpy as np
    import onnxruntime

    version = onnxruntime.__version__
    answer = _run_model("Add", ["x", "x"], np.array([[1.5, -2.0]], np.float32))
    if not np.array_equal(answer, np.array([[3.0, -4.0]], np.float32)):
        told = f"onnxruntime {version} says that twice [1.5, -2] is {answer.tolist()}"
        return Finding("onnxruntime", "failed", told, "install onnxruntime again")
    providers = ", ".join(onnxruntime.get_available_providers())
    return Finding("onnxruntime", "ok", f"onnxruntime {version} ran a model ({providers})")


def check_text_models() -> Finding:
    """Run a StringNormalizer: it opens the locale en_US.UTF-8 by default, and fails to load where that is missing."""
    import numpy as np

    try:
        answer = _run_model(
            "StringNormalizer", ["x"], np.array(["Ab"], object), case_change_action="LOWER", is_case_sensitive=1
        )
    except ServingError as fault:
        return Finding(
            "text models",
            "warning",
            f"models with StringNormalizer will not load: {fault.message}",
            "on Debian: apt-get install locales, uncomment en_US.UTF-8 in /etc/locale.gen, run locale-gen",
        )
    return Finding("text models", "ok", f"StringNormalizer loads and says {answer.tolist()[0]!r}")


def _run_model(operator: str, inputs: list[str], feed: Any, **attributes: Any) -> Any:
    """What a model of one operator answers; made, loaded and run as a registered model is."""
    import numpy as np
    from onnx import TensorProto, helper

    from registry.onnx import open_session

    element = TensorProto.STRING if feed.dtype == np.object_ else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], **attributes)],
        "doctor",
        [helper.make_tensor_value_info("x", element, [None] * feed.ndim)],
        [helper.make_tensor_value_info("y", element, [None] * feed.ndim)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory(prefix="driftgate-doctor-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        (answer,) = open_session(path).run(None, {"x": feed})
    return answer


def check_folder(root: Path) -> Finding:
    """Write, sync, rename and remove a file where the state is, or where it would be made."""
    place = next((folder for folder in (root, *root.parents) if folder.is_dir()), Path("/"))
    made = "" if place == root else f" (not made yet; {place} is there)"
    try:
        descriptor, name = tempfile.mkstemp(prefix=".doctor-", dir=place)
        path, moved = Path(name), Path(name + ".moved")
        try:
            os.write(descriptor, b"x")
            os.fsync(descriptor)
            path.rename(moved)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            moved.unlink(missing_ok=True)
    except OSError as fault:
        return Finding(
            "state folder", "failed", f"{root}{made}: {fault.strerror}", "name a writable folder with --home"
        )
    return Finding("state folder", "ok", f"{root} is writable{made}")


def check_room(home: Home, settings: Settings) -> Finding:
    """Space for the lanes of every worker, where they would lie."""
    place = next(folder for folder in (home.run, *home.run.parents) if folder.is_dir())
    wanted = settings.lanes.lane_bytes * _LANES_A_WORKER * settings.gateway.workers
    free = shutil.disk_usage(place).free
    told = (
        f"{free / 2**20:,.0f} MiB free in {place}; {settings.gateway.workers} worker(s) may want {wanted / 2**20:,.0f}"
    )
    if free < wanted:
        return Finding(
            "room for lanes", "failed", told, "make room, or set --run-dir to another disk or lanes.lane_bytes lower"
        )
    if free < 4 * wanted:
        return Finding("room for lanes", "warning", told, "models and the database need room as well")
    return Finding("room for lanes", "ok", told)


def check_port(name: str, host: str, port: int, flag: str, serving: Serving | None) -> Finding:
    """Bind it as `serve` would; a port held by this folder's own server is as it should be."""
    if serving is not None:
        return Finding(name, "ok", f"held by the server of this state folder (process {serving.pid})")
    if port == 0:
        return Finding(name, "ok", f"{host}: any free port")
    try:
        take_port(host, port, flag=flag).close()
    except PortTaken as fault:
        return Finding(name, "failed", f"{host}:{port} is taken or cannot be bound", fault.message)
    return Finding(name, "ok", f"{host}:{port} is free")


def check_grpc(gateway: GatewaySettings, serving: Serving | None) -> Finding:
    """What `serve` would make of gRPC here."""
    name = "grpc port"
    if gateway.grpc == "off":
        return Finding(name, "ok", "gRPC is off (gateway.grpc)")
    if not is_installed():
        if gateway.grpc == "on":
            return Finding(name, "failed", "the packages of gRPC are not installed", HOW_TO_INSTALL)
        return Finding(name, "ok", f"no gRPC: its packages are not installed ({HOW_TO_INSTALL})")
    if serving is not None and not serving.grpc_url:
        return Finding(name, "ok", "the server of this state folder speaks no gRPC")
    found = check_port(name, gateway.host, gateway.grpc_port, FLAG, serving)
    if found.status == "failed" and gateway.grpc == "auto":
        return Finding(name, "warning", f"{found.told}: serve would start without gRPC", found.advice)
    return found


def check_clocks() -> Finding:
    """The clocks that leases and records rest on: both move at the same pace, and the wall clock has been set."""
    clock = SystemClock()
    host, elapsed = clock.host_ns(), clock.now_s()
    time.sleep(_CLOCK_STEP_S)
    host_s, elapsed_s = (clock.host_ns() - host) / 1e9, clock.now_s() - elapsed
    if not 0.5 * elapsed_s < host_s < 2.0 * elapsed_s + 0.05:
        return Finding(
            "clocks",
            "failed",
            f"the host's clock moved {host_s:.3f} s while {elapsed_s:.3f} s passed",
            "leases would run out early or late; look at the machine's clock source",
        )
    if clock.wall_ns() < _EARLIEST_WALL_S * 10**9:
        return Finding("clocks", "warning", "the wall clock was never set", "records would carry wrong times; run NTP")
    return Finding("clocks", "ok", f"moving evenly; it is {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime())}")


def check_server(home: Home, serving: Serving | None, environ: Mapping[str, str]) -> Finding:
    """Ask the running server of this state folder, if there is one."""
    if serving is None:
        return Finding("server", "ok", f"none serves from {home.root}")
    where = f"process {serving.pid}: predictions at {serving.data_url}, control at {serving.control_url}"
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(ControlClient(serving.control_url, environ.get(TOKEN_VARIABLE)))
        data = stack.enter_context(ControlClient(serving.data_url))
        status, body = client.health()
        if status != 200:
            return Finding("server", "failed", f"{where}; the controller is not ready: {body}", "see its log")
        data.text("/v2/health/ready")
    return Finding("server", "ok", f"{where}; both are ready")


def _tried(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except ServingError as fault:
        return Finding(name, "failed", fault.message)
    except Exception as fault:
        return Finding(name, "failed", f"{type(fault).__name__}: {fault}")
