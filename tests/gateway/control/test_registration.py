"""Registration in a process of its own: one answer, or an error of its own class."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.control.registration import MOST_AT_ONCE, Registrar
from gateway.settings import Settings
from registry.catalog import Catalog
from registry.errors import ArtifactRejected, Draining, MalformedRequest, Overloaded
from registry.home import Home
from tests.support import models


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(root=tmp_path / "home", run=tmp_path / "home" / "run")
    made.create()
    return made


@pytest.fixture
def registrar(home: Home) -> Iterator[Registrar]:
    made = Registrar(home, Settings())
    yield made
    made.close()


def test_a_model_is_registered_by_a_child_and_refusals_keep_their_class(
    home: Home, registrar: Registrar, tmp_path: Path
) -> None:
    path = models.linear(tmp_path / "m.onnx")
    answer = registrar.register("m", {"path": str(path), "tags": {"team": "x"}}, "ana")
    assert (answer["version"], answer["created"]) == (1, True)
    catalog = Catalog.open(home.database_url)
    assert catalog.version("m", 1).actor == "ana"
    catalog.close()
    assert registrar.register("m", {"path": str(path)}, "ana")["created"] is False
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactRejected) as refused:
        registrar.register("m", {"path": str(tmp_path / "broken.onnx")}, "ana")
    assert refused.value.message
    with pytest.raises(MalformedRequest, match="path"):
        registrar.register("m", {}, "ana")


def test_too_many_at_once_are_told_to_come_back(registrar: Registrar) -> None:
    for _ in range(MOST_AT_ONCE):
        registrar._slots.acquire()
    with pytest.raises(Overloaded) as refused:
        registrar.register("m", {"path": "/x"}, "ana")
    assert refused.value.retry_after_s


def test_a_server_that_stops_says_so_and_not_how_the_child_died(registrar: Registrar, tmp_path: Path) -> None:
    pipe = tmp_path / "never-written.csv"
    os.mkfifo(pipe)
    threading.Timer(0.05, registrar.close).start()
    with pytest.raises(Draining, match="the server is stopping") as refused:
        registrar.profile("m", 1, {"reference": str(pipe)}, "ana")
    assert refused.value.code == "draining"
    with pytest.raises(Draining):
        registrar.register("m", {"path": str(pipe)}, "ana")


def test_a_profile_is_made_by_a_child_too(home: Home, registrar: Registrar, tmp_path: Path) -> None:
    registrar.register("m", {"path": str(models.linear(tmp_path / "m.onnx", features=2))}, "ana")
    (tmp_path / "r.csv").write_text("a,b\n" + "\n".join(f"{i},{i * 2}" for i in range(50)))
    made = registrar.profile("m", 1, {"reference": str(tmp_path / "r.csv")}, "ana")
    assert (made["number"], made["created"], made["rows"], made["actor"]) == (1, True, 50, "ana")
    with pytest.raises(ArtifactRejected, match="no such file"):
        registrar.profile("m", 1, {"reference": "/none.csv"}, "ana")
