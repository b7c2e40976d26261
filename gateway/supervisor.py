"""`driftgate serve`: one supervisor, N workers, one controller; what dies is started again.

Invariant: one supervisor per state folder and per port (`serve_lock.py`). Called by the command line. Everything runs
on the main thread, so the kernel's parent-death signal to the children means this process; a second thread only asks
the ports whether they answer.

The supervisor knows nothing of models. It holds the ports, the lock, and the writing end of a pipe that no one writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.file_limit import raise_file_limit
from gateway.grpc_port import take_grpc_port
from gateway.orphan import BOOT_ID, CHILD_SETTINGS, ENDED_BY, SUPERVISOR_FD
from gateway.serve_lock import AlreadyServing, PortTaken, Serving, hold_lock, read_lock, take_port, write_lock
from gateway.settings import Settings
from gateway.settings_load import to_json
from registry.errors import InvalidSetting
from registry.home import Home

HOPELESS = 2  # exit code of a child that will never start (settings, another release's files): not started again
_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0)  # a worker is back within 5 s, whatever happened before
_MOST_FALSE_STARTS = 5  # of one process in a row before the server was ever ready: it never will be
_STEADY_S = 10.0  # a child that lived this long starts again without delay
_TWICE_S = 0.5  # a terminal and a parent may both pass on one Ctrl-C: that is one wish
_STALE_PORT_S = 8.0  # children of a killed supervisor answer what is in flight, then free its ports
_OWN_FAULT = (signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT)  # nobody else sent them
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class _Child:
    """One process to keep alive."""

    name: str
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths: int = 0  # in a row, each soon after its start
    start_at_s: float = 0.0
    ended_by: int = 0  # the signal that the last process raised by its own fault

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """The loop. `run()` blocks until SIGTERM or SIGINT, drains, and returns the exit code."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        say: Callable[[str], None],
        on_ready: Callable[[Serving], None] = lambda _serving: None,
        python: tuple[str, ...] = (sys.executable, "-P", "-m", "driftgate"),
    ) -> None:
        self._home = home
        self._settings = settings
        self._say = say
        self._on_ready = on_ready
        self._python = python
        self._boot_id = secrets.token_hex(16)
        self._children: list[_Child] = []
        self._signals = 0
        self._signalled_s = 0.0
        self._hopeless = False
        self._was_ready = False

    def run(self) -> int:
        """Serve until told to stop. 0: stopped in order; 1: stopped at once, or a child can never start.

        Raises AlreadyServing, PortTaken, InvalidSetting before anything is started.
        """
        self._refuse_open_control_port()
        self._home.create()
        raise_file_limit()
        with hold_lock(self._home) as lock, contextlib.ExitStack() as stack:
            crashed = os.fstat(lock).st_size > 0  # a server that stops in order leaves it empty
            wait_s = _STALE_PORT_S if crashed else 0.0
            gateway, control = self._settings.gateway, self._settings.control
            data_port = stack.enter_context(take_port(gateway.host, gateway.port, flag="--port", wait_s=wait_s))
            control_port = stack.enter_context(
                take_port(control.host, control.port, flag="--control-port", wait_s=wait_s)
            )
            grpc_holder = take_grpc_port(gateway, self._say, wait_s)
            if grpc_holder is not None:
                stack.enter_context(grpc_holder)
            gateway = dataclasses.replace(
                gateway,
                port=data_port.getsockname()[1],
                grpc="off" if grpc_holder is None else "on",
                grpc_port=gateway.grpc_port if grpc_holder is None else grpc_holder.getsockname()[1],
            )
            self._settings = dataclasses.replace(
                self._settings,
                gateway=gateway,
                control=dataclasses.replace(control, port=control_port.getsockname()[1]),
            )
            serving = Serving(
                pid=os.getpid(),
                control_url=_url(control.host, self._settings.control.port),
                data_url=_url(gateway.host, self._settings.gateway.port),
                run_dir=str(self._home.run),
                boot_id=self._boot_id,
                grpc_url="" if grpc_holder is None else _address(gateway.host, gateway.grpc_port),
            )
            write_lock(lock, json.dumps(dataclasses.asdict(serving)).encode())
            code = self._keep_alive(serving)
            write_lock(lock, b"")
            return code

    def _refuse_open_control_port(self) -> None:
        control = self._settings.control
        if control.host not in _LOOPBACK and not control.token_file:
            raise InvalidSetting(
                f"the control port may listen on {control.host} only with a token file: set control.token_file "
                "(one `name role token` a line), or leave --control-host at 127.0.0.1."
            )
        if control.token_file and not Path(control.token_file).is_file():
            raise InvalidSetting(f"control.token_file {control.token_file} does not exist")

    def _keep_alive(self, serving: Serving) -> int:
        reading, writing = os.pipe()  # children hold `reading`; its end of file tells them that we are gone
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD  # nohup: SIGHUP stays off
        }
        before_fd = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        stop_asking = threading.Event()
        try:
            where = ["--home", str(self._home.root), "--run-dir", str(self._home.run)]
            self._children = [_Child("controller", ["controller", *where])] + [
                _Child(f"worker {slot}", ["worker", str(slot), *where]) for slot in range(self._worker_count())
            ]
            environ = {
                **os.environ,
                CHILD_SETTINGS: to_json(self._settings),
                SUPERVISOR_FD: str(reading),
                BOOT_ID: self._boot_id,
            }
            threading.Thread(target=self._announce, args=(serving, stop_asking), daemon=True).start()
            while not self._signals and not self._hopeless:
                self._start_due(environ, reading)
                self._wait(selector, wake_read, self._next_start_s())
                self._reap()
            stop_asking.set()
            if self._hopeless:
                self._say("stopping: a process of this server can never start (see above)")
            in_order = self._stop(selector, wake_read)
            return 0 if in_order and not self._hopeless else 1
        finally:
            stop_asking.set()
            for child in self._children:
                child.signal(signal.SIGKILL)
                if child.process is not None:
                    child.process.wait()
            selector.close()
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            for descriptor in (reading, writing, wake_read, wake_write):
                os.close(descriptor)

    def _worker_count(self) -> int:
        if sys.platform != "linux" and self._settings.gateway.workers > 1:
            self._say("elsewhere than Linux there is one worker: the kernel does not share a port fairly")
            return 1
        return self._settings.gateway.workers

    def _on_signal(self, number: int, _frame: Any) -> None:
        if number != signal.SIGCHLD and (not self._signals or time.monotonic() - self._signalled_s > _TWICE_S):
            self._signals += 1
            self._signalled_s = time.monotonic()

    def _start_due(self, environ: dict[str, str], pipe: int) -> None:
        for child in self._children:
            if child.process is None and time.monotonic() >= child.start_at_s:
                # Own process group: a terminal's Ctrl-C or hang-up reaches the supervisor alone, which drains in order.
                child.process = subprocess.Popen(
                    [*self._python, *child.arguments],
                    env={**environ, ENDED_BY: str(child.ended_by)},
                    pass_fds=(pipe,),
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
                child.started_s = time.monotonic()

    def _next_start_s(self) -> float:
        waiting = [child.start_at_s for child in self._children if child.process is None]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else 60.0

    def _wait(self, selector: selectors.BaseSelector, wake: int, timeout_s: float) -> None:
        if selector.select(timeout_s):
            with contextlib.suppress(BlockingIOError):
                while os.read(wake, 4096):
                    pass

    def _reap(self) -> None:
        for child in self._children:
            process = child.process
            if process is None or process.poll() is None:
                continue
            child.process = None
            child.ended_by = -process.returncode if -process.returncode in _OWN_FAULT else 0
            if process.returncode == HOPELESS:
                self._hopeless = True
                self._say(f"{child.name} (process {process.pid}) can never start")
                continue
            now_s = time.monotonic()
            child.deaths = 1 if now_s - child.started_s >= _STEADY_S else child.deaths + 1
            if process.returncode > 0 and child.deaths >= _MOST_FALSE_STARTS and not self._was_ready:
                self._hopeless = True
                self._say(f"{child.name} {_how_it_ended(process.returncode)} {child.deaths} times at its start")
                continue
            delay_s = _BACKOFF_S[min(child.deaths, len(_BACKOFF_S)) - 1]
            child.start_at_s = now_s + delay_s
            again = f"starting it again in {delay_s:g} s" if delay_s else "starting it again"
            self._say(f"{child.name} (process {process.pid}) {_how_it_ended(process.returncode)}; {again}")

    def _stop(self, selector: selectors.BaseSelector, wake: int) -> bool:
        """Workers first (they drain), then the controller. False when a second signal or a deadline cut it short."""
        gateway = self._settings.gateway
        workers = [child for child in self._children if child.name != "controller"]
        others = [child for child in self._children if child.name == "controller"]
        if any(child.process for child in workers):
            self._say("draining: readiness is off, open connections are answered (again to stop at once)")
        in_order = True
        for group, patience_s in ((workers, gateway.drain_s + gateway.grace_s + 5.0), (others, 5.0)):
            told = self._signals
            for child in group:
                child.signal(signal.SIGTERM)
            until = time.monotonic() + patience_s
            while any(child.process is not None and child.process.poll() is None for child in group):
                left_s = until - time.monotonic()
                if left_s <= 0 or self._signals > max(told, 1):
                    in_order = False
                    self._say("stopping at once")
                    for child in self._children:
                        child.signal(signal.SIGKILL)
                    return in_order
                self._wait(selector, wake, min(left_s, 1.0))
        return in_order

    def _announce(self, serving: Serving, stop: threading.Event) -> None:
        waiting = [serving.control_url + "/readyz", serving.data_url + "/v2/health/ready"]
        while waiting and not stop.wait(0.1):
            waiting = [url for url in waiting if not _answers(url)]
        if not waiting:
            self._was_ready = True
            self._on_ready(serving)


def serve(
    home: Home,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    on_ready: Callable[[Serving], None] = lambda _serving: None,
) -> int:
    """Run a whole server in this process and its children until SIGTERM or SIGINT; the exit code.

    say gets plain lines of news; on_ready is called once, from another thread, when both ports answer ready.
    """
    return Supervisor(home, settings, say=say, on_ready=on_ready).run()


def _url(host: str, port: int) -> str:
    return f"http://{_address(host, port)}"


def _address(host: str, port: int) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2.0) as answer:  # our own http:// address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


__all__ = ["AlreadyServing", "PortTaken", "Serving", "Supervisor", "read_lock", "serve"]
