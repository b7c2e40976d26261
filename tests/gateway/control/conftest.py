"""A controller and its worker's page, without processes, for tests of what the controller does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.control.world import Worker, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def worker(world: World) -> Worker:
    return Worker(world.home.run)
