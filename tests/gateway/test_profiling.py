"""Another profile for a version that exists: from a table, numbered, known again, and refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.profiling import ProfileRequest, run_profile
from gateway.registration import Request, run_registration
from gateway.settings import Settings
from monitor.profile import ReferenceProfile
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import ArtifactRejected, MalformedRequest, VersionNotFound
from registry.home import Home
from tests.support import models


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("profiling")
    home = Home(root=folder / "home", run=folder / "run")
    home.create()
    path = models.linear(folder / "m.onnx", features=2, outputs=1)
    run_registration(home, Settings(), Request(model="m", path=str(path)), lambda *_: None)
    return home


def table(path: Path, rows: int = 300, **more: Any) -> str:
    rng = np.random.default_rng(0)
    columns = {"age": rng.integers(18, 90, rows), "income": rng.normal(size=rows).round(4), **more}
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *lines]))
    return str(path)


def make(home: Home, **asked: Any) -> dict[str, Any]:
    request = ProfileRequest.from_body("m", 1, asked, "ana")
    return run_profile(home, Settings(), request, lambda *_: None)


def test_a_reference_given_later_is_a_numbered_profile_with_the_tables_names(registered: Home, tmp_path: Path) -> None:
    first = make(registered, reference=table(tmp_path / "a.csv"))
    assert (first["created"], first["rows"], first["source"]) == (True, 300, "a.csv")
    assert [(c["name"], c["kind"], c["type"]) for c in first["columns"]] == [
        ("age", "input", "integer"),
        ("income", "input", "numeric"),
        ("y", "output", "numeric"),
    ]
    again = make(registered, reference=table(tmp_path / "b.csv"))
    assert (again["created"], again["number"], again["profile"]) == (False, first["number"], first["profile"])
    other = make(registered, reference=table(tmp_path / "c.csv", rows=200))
    assert (other["created"], other["number"]) == (True, first["number"] + 1)
    catalog = Catalog.open(registered.database_url)
    try:
        assert catalog.profiles("m", 1)[-1].sha256 == other["profile"]
        assert catalog.version("m", 1).manifest.profile is None  # the version is what it was
        told = [event for event in catalog.events(model="m") if event.type == "profile.added"]
        assert [event.data["number"] for event in told][-1] == other["number"]
        assert told[-1].actor == "ana"
    finally:
        catalog.close()
    stored = ReferenceProfile.from_bytes(ArtifactStore(registered.artifacts).read(other["profile"]))
    assert stored.outputs[0].rows == 200


def test_a_column_of_moments_puts_rows_in_order_and_is_no_input(registered: Home, tmp_path: Path) -> None:
    moments = [f"2026-01-{day:02d}T00:00:{second:02d}Z" for day in (2, 1) for second in range(50)]
    path = table(tmp_path / "t.csv", rows=100, at=moments)
    made = make(registered, reference=path, by_time="at")
    assert (made["ordered"], made["since"], made["until"]) == (
        True,
        *(f"2026-01-{when}.000000Z" for when in ("01T00:00:00", "02T00:00:49")),
    )
    with pytest.raises(ArtifactRejected, match="no such column"):
        make(registered, reference=path, by_time="when")
    assert make(registered, reference=path, columns=["age", "income"], unordered=True)["ordered"] is False


def test_dates_with_two_meanings_are_refused_until_their_owner_says_which(registered: Home, tmp_path: Path) -> None:
    moments = [f"{1 + row % 2:02d}/02/2026 00:{row // 2:02d}" for row in range(100)]
    path = table(tmp_path / "t.csv", rows=100, at=moments)
    with pytest.raises(ArtifactRejected, match="--date-format day-first or month-first"):
        make(registered, reference=path, by_time="at")
    assert make(registered, reference=path, by_time="at", date_format="day-first")["since"][:10] == "2026-02-01"
    assert make(registered, reference=path, by_time="at", date_format="month-first")["since"][:10] == "2026-01-02"


def test_what_cannot_be_made_is_refused_with_the_reason(registered: Home, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejected, match="no such file"):
        make(registered, reference="/none.csv")
    with pytest.raises(ArtifactRejected, match="1,000 are needed"):
        make(registered, from_traffic="24h")
    with pytest.raises(VersionNotFound):
        run_profile(registered, Settings(), ProfileRequest(model="m", version=7, reference="/x"), lambda *_: None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reference": "/r", "from_traffic": "1h"},
        {"from_traffic": "1 fortnight"},
        {"from_traffic": "8d"},
        {"from_traffic": 3},
        {"from_traffic": "1h", "target": "y"},
        {"reference": "/r", "by_time": "at", "unordered": True},
        {"reference": "/r", "unordered": "yes"},
        {"reference": "/r", "date_format": "day-first"},  # of which column?
        {"reference": "/r", "by_time": "at", "date_format": "dayfirst"},
        {"from_traffic": "1h", "by_time": "at", "date_format": "day-first"},
        {"reference": "/r", "columns": 3},
    ],
)
def test_a_body_that_means_nothing_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        ProfileRequest.from_body("m", 1, body, "ana")


def test_a_request_survives_the_way_through_the_api() -> None:
    request = ProfileRequest(
        model="m",
        version=2,
        reference="/r",
        columns=("a", "b"),
        target="t",
        prediction="p",
        by_time="at",
        date_format="%d.%m.%y",
        actor="ana",
    )
    assert ProfileRequest.from_body("m", 2, request.to_body(), "ana") == request
    lately = ProfileRequest(model="m", version=2, from_traffic_s=3600, actor="ana")
    assert lately.to_body() == {"from_traffic": "3600s"}
    assert ProfileRequest.from_body("m", 2, lately.to_body(), "ana") == lately
