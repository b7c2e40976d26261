"""A controller that has seen nothing, in a folder that goes away: what the routes and metrics pages ask."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.control.controller import Controller
from gateway.control.controller_process import make_watch, open_artifacts, open_catalog
from gateway.control.loads import Preparer
from gateway.control.table import RouteTable
from gateway.settings import Settings
from registry.clock import SystemClock
from registry.home import Home

BOOT_ID = "0" * 32


@contextmanager
def fresh_controller() -> Iterator[Controller]:
    """The controller of an empty state folder, made of its real parts. It is never started."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder), run=Path(folder) / "run")
        home.create()
        settings, clock = Settings(), SystemClock()
        catalog = open_catalog(home, settings, clock)
        artifacts = open_artifacts(home, settings)
        watch = make_watch(home, settings, catalog, artifacts, clock)
        try:
            yield Controller(
                run=home.run,
                settings=settings,
                catalog=catalog,
                preparer=Preparer(artifacts, home.run, clock),
                watch=watch,
                table=RouteTable(home.run, BOOT_ID, clock),
                clock=clock,
                boot_id=BOOT_ID,
            )
        finally:
            watch.close()
            catalog.close()
