"""The supervisor with stand-in children: real processes, signals, ports and locks, no models."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.serve_lock import AlreadyServing, PortTaken, hold_lock, read_lock, take_port
from gateway.settings import ControlSettings, GatewaySettings, Settings
from gateway.settings_load import to_json
from gateway.supervisor import Supervisor
from registry.errors import InvalidSetting
from registry.home import Home

# A child that says what it is by a file named after its pid, and ends as a real one does.
CHILD = """
import asyncio, os, signal, sys, pathlib
from gateway.orphan import watch_supervisor
out = pathlib.Path(os.environ["CHILD_OUT"])
name = "-".join(sys.argv[1:3]) if sys.argv[1] == "worker" else sys.argv[1]
if (out / "hopeless").exists():
    sys.exit(int((out / "hopeless").read_text()))
def log(what):
    with open(out / "said", "a") as file:
        file.write(f"{name} {os.getpid()} {what}\\n")
async def main():
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: (log("term"), end.set()))
    watch_supervisor(lambda: (log("orphan"), end.set()))
    log("up")
    log("after-" + os.environ["DRIFTGATE_ENDED_BY"])
    await end.wait()
    await asyncio.sleep(float(os.environ.get("CHILD_DRAIN_S", "0.05")))
    log("down")
asyncio.run(main())
"""

# A parent that can be killed: it serves with the stand-in children.
PARENT = """
import sys, pathlib
from gateway.settings_load import from_json
from gateway.supervisor import Supervisor
from registry.home import Home
root = pathlib.Path(sys.argv[1])
home = Home(root=root, run=root / "run")
python = (sys.executable, str(root / "child.py"))
sys.exit(Supervisor(home, from_json(sys.argv[2]), say=print, python=python).run())
"""


def until(fact: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Served:
    """A supervisor process with stand-in children."""

    def __init__(self, root: Path, environ: dict[str, str] | None = None, workers: int = 2) -> None:
        self.root = root
        (root / "child.py").write_text(CHILD)
        settings = Settings(
            gateway=GatewaySettings(port=0, grpc="off", workers=workers), control=ControlSettings(port=0)
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(root), to_json(settings)],
            env={**os.environ, "CHILD_OUT": str(root), "PYTHONPATH": os.getcwd(), **(environ or {})},
            stdout=subprocess.PIPE,
        )

    def wait(self, seconds: float = 10.0) -> tuple[int, bytes]:
        """Its exit code and what it said; killed when it takes longer."""
        try:
            said = self.process.communicate(timeout=seconds)[0]
        finally:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode, said

    def log(self) -> list[tuple[str, int, str]]:
        if not (self.root / "said").exists():
            return []
        lines = (self.root / "said").read_text().splitlines()
        return [(name, int(pid), what) for name, pid, what in (line.split() for line in lines)]

    def ups(self, name: str) -> list[int]:
        return [pid for who, pid, what in self.log() if who == name and what == "up"]

    def all_up(self) -> bool:
        return all(self.ups(name) for name in ("controller", "worker-0", "worker-1"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path)
    until(one.all_up)
    yield one
    one.process.kill()
    one.process.communicate()
    until(lambda: not any(alive(pid) for _, pid, _ in one.log()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except OSError:
        return False


def test_sigterm_drains_the_workers_before_the_controller_and_exits_0(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.wait()[0] == 0
    ends = [(name, what) for name, _, what in served.log() if what in ("term", "down")]
    assert {name for name, _ in ends[:4]} == {"worker-0", "worker-1"}
    assert ends[4:] == [("controller", "term"), ("controller", "down")]
    assert (served.root / "serve.lock").read_bytes() == b""


def test_a_killed_child_is_back_soon_again_and_again(served: Served) -> None:
    for deaths in (1, 2, 3):
        os.kill(served.ups("worker-1")[-1], signal.SIGKILL)
        until(lambda deaths=deaths: len(served.ups("worker-1")) == deaths + 1, 5.0)  # type: ignore[misc]
    assert len(served.ups("worker-0")) == 1
    assert len(served.ups("controller")) == 1


def test_a_child_is_told_how_the_one_before_it_ended_where_that_was_its_own_fault(served: Served) -> None:
    for number, told in ((signal.SIGABRT, signal.SIGABRT), (signal.SIGKILL, 0), (signal.SIGSEGV, signal.SIGSEGV)):
        before = served.ups("worker-0")
        os.kill(before[-1], number)
        until(lambda before=before: len(served.ups("worker-0")) > len(before))  # type: ignore[misc]
        pid = served.ups("worker-0")[-1]
        until(lambda pid=pid, told=told: ("worker-0", pid, f"after-{int(told)}") in served.log())  # type: ignore[misc]
    assert {what for name, _, what in served.log() if name != "worker-0" and "after" in what} == {"after-0"}


def test_children_end_when_the_supervisor_is_killed_and_the_next_one_starts_clean(served: Served) -> None:
    children = [pid for _, pid, what in served.log() if what == "up"]
    assert read_lock(Home(root=served.root, run=served.root / "run")) is not None
    served.process.kill()
    served.process.wait()
    until(lambda: not any(alive(pid) for pid in children), 5.0)
    assert sum(what == "orphan" for _, _, what in served.log()) == 3
    assert read_lock(Home(root=served.root, run=served.root / "run")) is None
    (served.root / "said").unlink()
    again = Served(served.root)
    until(again.all_up)
    again.process.terminate()
    assert again.wait()[0] == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    one = Served(tmp_path, {"CHILD_DRAIN_S": "60"})
    until(one.all_up)
    one.process.send_signal(signal.SIGINT)
    until(lambda: any(what == "term" for _, _, what in one.log()))
    time.sleep(0.6)
    assert one.process.poll() is None
    one.process.send_signal(signal.SIGINT)
    assert one.wait(5)[0] == 1
    assert not any(alive(pid) for _, pid, _ in one.log())


@pytest.mark.parametrize(("code", "said"), [(2, b"can never start"), (1, b"5 times at its start")])
def test_a_child_that_can_never_start_stops_the_server(tmp_path: Path, code: int, said: bytes) -> None:
    (tmp_path / "hopeless").write_text(str(code))
    one = Served(tmp_path)
    ended, told = one.wait(30)
    assert ended == 1
    assert said in told


def test_a_second_server_of_one_state_folder_is_refused_with_the_firsts_address(served: Served) -> None:
    home = Home(root=served.root, run=served.root / "run")
    there = read_lock(home)
    assert there is not None
    with pytest.raises(AlreadyServing, match=there.control_url), hold_lock(home):
        pass
    assert json.loads(home.lock.read_text())["pid"] == served.process.pid


def test_a_port_that_anybody_listens_on_is_refused_even_if_they_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken, match="--port"):
            take_port("127.0.0.1", other.getsockname()[1], flag="--port")


def test_a_taken_port_refuses_others_and_lets_our_children_share_it() -> None:
    with take_port("127.0.0.1", 0, flag="--port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken):
            take_port("127.0.0.1", port, flag="--port")
        with socket.socket() as child:
            child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            child.bind(("127.0.0.1", port))
            child.listen()
            with socket.create_connection(("127.0.0.1", port), 2):
                child.accept()[0].close()
            with pytest.raises(PortTaken):
                take_port("127.0.0.1", port, flag="--port")
    take_port("127.0.0.1", port, flag="--port").close()  # remembered connections do not hold it


def test_an_open_control_port_without_a_token_file_is_refused(tmp_path: Path) -> None:
    settings = Settings(control=ControlSettings(host="0.0.0.0", port=0))
    home = Home(root=tmp_path, run=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="token file"):
        Supervisor(home, settings, say=print).run()
