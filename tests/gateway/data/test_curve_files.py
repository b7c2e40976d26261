"""What workers measured is told in files of their own, which nothing depends on."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.data import curve_files
from gateway.data.curve import Curve, Point
from gateway.data.run_times import Line

CURVE = Curve("reference", (Point(1, 100.0), Point(2, 110.0)), 2, Line(10.0, 90.0), 0)
SHOWN = {
    "worker": 0,
    "source": "reference",
    "chosen_rows": 2,
    "per_row_ms": 0.01,
    "fixed_ms": 0.09,
    "points": [{"rows": 1, "ms": 0.1, "rows_per_s": 6666.7}, {"rows": 2, "ms": 0.11, "rows_per_s": 12500.0}],
}


def test_curves_are_read_by_version_and_worker_of_this_model_only(tmp_path: Path) -> None:
    for slot, model, version in ((1, "a", 3), (0, "a", 3), (0, "a", 12), (0, "a.b", 3), (7, "a", 3)):
        curve_files.write(tmp_path, slot, model, version, CURVE)
    found = curve_files.read(tmp_path, {0, 1}, "a")
    assert found == {3: [SHOWN, {**SHOWN, "worker": 1}], 12: [SHOWN]}


def test_what_is_unloaded_or_of_a_former_worker_is_no_longer_told(tmp_path: Path) -> None:
    for version in (1, 2):
        curve_files.write(tmp_path, 0, "a", version, CURVE)
    curve_files.forget(tmp_path, 0, "a", 1)
    curve_files.forget(tmp_path, 0, "a", 1)
    assert list(curve_files.read(tmp_path, {0}, "a")) == [2]
    curve_files.forget_all(tmp_path, 0)
    assert curve_files.read(tmp_path, {0}, "a") == {}


def test_a_damaged_or_newer_file_is_passed_over(tmp_path: Path) -> None:
    curve_files.write(tmp_path, 0, "a", 1, CURVE)
    path = next((tmp_path / "curves" / "0").iterdir())
    document = json.loads(path.read_bytes())
    for content in (b"{", b"[]", json.dumps({**document, "v": 99}).encode(), b'{"format": "driftgate.curve", "v": 1}'):
        path.write_bytes(content)
        assert curve_files.read(tmp_path, {0}, "a") == {}


def test_a_full_disk_costs_the_telling_only(tmp_path: Path) -> None:
    (tmp_path / "curves").write_bytes(b"not a folder")
    curve_files.write(tmp_path, 0, "a", 1, CURVE)
