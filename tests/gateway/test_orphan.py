"""A child hears that its supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

CHILD = """
import asyncio
from gateway.orphan import watch_supervisor
async def main():
    gone = asyncio.Event()
    calls = []
    watch_supervisor(lambda: (calls.append(1), gone.set()))
    print("up", flush=True)
    await gone.wait()
    await asyncio.sleep(0.05)
    print("gone", len(calls), flush=True)
asyncio.run(main())
"""


def start(**environ: str) -> tuple[subprocess.Popen[str], int, int]:
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "DRIFTGATE_SUPERVISOR_FD": str(reading), **environ},
        pass_fds=(reading,),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child, reading, writing


def test_the_pipes_end_is_heard_once() -> None:
    child, reading, writing = start()
    os.close(writing)
    assert child.communicate(timeout=10)[0] == "gone 1\n"
    os.close(reading)


def test_the_parent_death_signal_is_heard_and_ctrl_c_is_not() -> None:
    child, reading, writing = start()
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGHUP)
    assert child.communicate(timeout=10)[0] == "gone 1\n"
    os.close(reading)
    os.close(writing)


def test_without_a_supervisor_nothing_is_watched_but_sighup() -> None:
    async def main() -> None:
        from gateway.orphan import watch_supervisor

        before = signal.getsignal(signal.SIGINT)
        told: list[int] = []
        watch_supervisor(lambda: told.append(1), {})
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.02)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGINT, before)
        assert told == [1]

    asyncio.run(main())
