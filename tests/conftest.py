"""What every test may ask for. The timeout is in pyproject.toml; tests of coroutines call asyncio.run themselves."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # tests.support, and the packages themselves where they are not installed
    sys.path.insert(0, str(ROOT))

# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that: tests that send a SIGINT
# to a server of theirs would wait for ever. A handled signal is back to its default in the programs that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PORTS_FROM, _PORTS_PER_WORKER, _PORT_WORKERS = 20_000, 1_000, 12  # below what Linux gives to outgoing connections


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of real models and data with expected outputs; skips where there is none."""
    folder = os.environ.get("DRIFTGATE_TEST_MATERIAL")
    if not folder:
        pytest.skip("DRIFTGATE_TEST_MATERIAL is not set: no real models and data here")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"DRIFTGATE_TEST_MATERIAL names {folder}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def _ports() -> Iterator[int]:
    """Port numbers of this xdist worker's own range, so that two tests never race for one; starts anywhere in it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORT_WORKERS
    start = _PORTS_FROM + worker * _PORTS_PER_WORKER
    offset = random.SystemRandom().randrange(_PORTS_PER_WORKER)
    return (start + (offset + step) % _PORTS_PER_WORKER for step in range(1_000_000))


@pytest.fixture
def free_port(_ports: Iterator[int]) -> Callable[[], int]:
    """Call it for a TCP port on 127.0.0.1 that nothing listens on, a new one each time."""

    def take() -> int:
        for port in _ports:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise RuntimeError("no free port")

    return take


_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


@sa.event.listens_for(sa.Engine, "engine_connect")
def _remember(connection: sa.Connection) -> None:
    _engines.add(connection.engine)


@pytest.fixture(autouse=True)
def _connections_are_closed() -> Iterator[None]:
    """Close the pooled connections that a test left: Python 3.13 warns of each, in some later test, as an error.

    An engine that outlives the test (a fixture of a module) only connects anew.
    """
    yield
    for engine in list(_engines):
        engine.dispose()
    _engines.clear()
