"""`driftgate drift` between files, as users and scripts meet it: exit codes, one JSON document, a table that fits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from driftgate import drift
from gateway.cli import run
from gateway.cli_common import plain_table, shown_verdict
from gateway.cli_drift import _told
from gateway.cli_drift_files import _show


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options for two CSV files in which x moved and y did not."""
    rng = np.random.default_rng(0)
    options = []
    for option, shift in (("--reference", 0.0), ("--current", 0.5)):
        path = tmp_path / f"{option[2:]}.csv"
        frame = pd.DataFrame({"x": rng.normal(shift, 1, 2000).round(4), "y": rng.integers(0, 3, 2000)})
        frame.to_csv(path, index=False)
        options += [option, str(path)]
    return options


def test_json_is_one_document_with_an_alarm_for_what_moved(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drift", *files, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {item["feature"]: item["alarm"] for item in document["features"]} == {"x": True, "y": False}
    first = document["features"][0]
    assert first["value"] > first["threshold"]
    assert "higher" in first["explanation"]


@pytest.mark.parametrize("width", ["60", "100", "200"])
def test_the_table_names_what_moved_in_any_width(
    files: list[str], width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert run(["drift", *files]) == 0
    out = capsys.readouterr().out
    assert "breach" in out
    assert "Values are higher" in out
    assert "\x1b[" not in out  # no colour where nobody looks


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_no_histogram_is_cut_short(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What moved may be in the part that is cut off."""
    rng = np.random.default_rng(0)
    for side in "ab":
        columns = {f"a column with a long name, {at}": rng.normal(size=500) for at in range(4)}
        pd.DataFrame(columns).to_parquet(tmp_path / f"{side}.parquet")
    found = drift.compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    screen = Console(width=width, file=io.StringIO(), force_terminal=False)
    _show(found, screen, None)
    table = screen.file.getvalue().split("nothing moved")[0]  # type: ignore[attr-defined]
    rows = [line.split("│") for line in table.splitlines() if "pass" in line]
    assert len(rows) >= 4
    assert max(len(line) for line in table.splitlines()) <= width
    assert not {cell for row in rows for cell in row if "…" in cell and set(cell) & set("▁▂▃▄▅▆▇█")}
    assert any(set(cell) & set("▁▂▃▄▅▆▇█") for row in rows for cell in row) == (width > 60)


def test_alarms_fail_only_where_asked(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", *files, "--fail-on-alarm"]) == 1
    assert run(["drift", *files, "--fail-on-alarm", "--skip", "x"]) == 0
    assert "nothing moved" in capsys.readouterr().out


def test_what_could_not_be_judged_is_said(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(Path(files[1]).read_text().splitlines(keepends=True)[:51]))
    assert run(["drift", "--reference", files[1], "--current", str(few)]) == 0
    assert "nothing moved beyond its limit in 2 features; 2 of them could not be judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["drift"],
        ["drift", "--reference", "a.csv"],
        ["drift", "--current", "a.csv"],
        ["drift", "fraud", "--reference", "a.csv", "--current", "b.csv"],
        ["drift", "fraud", "--html", "r.html"],
        ["drift", "--window", "5m", "--reference", "a.csv", "--current", "b.csv"],
    ],
)
def test_words_that_mean_nothing_together_are_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "malformed_request"


@pytest.mark.parametrize(
    "more",
    [
        ["--type", "x"],
        ["--type", "x=float"],
        ["--type", "z=number"],
        ["--skip", "z"],
        ["--by-time", "z"],
        ["--prediction", "z"],
        ["--false-alarm-probability", "2"],
    ],
)
def test_an_option_that_names_nothing_is_usage(
    files: list[str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drift", *files, *more, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"\x00\x01\x02\x03\n", "neither CSV nor Parquet"),
        (b"PAR1 but not really", "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b"x,x\n1,2\n", "appear twice"),
        (b"x,y\n1,2\n3\n", "Expected 2 columns"),
        (b"x,y\n1,\xff\xfe\n", "UTF8"),
        (b'x,y\n1,"' + b"never closed\n" * 1_500_000, "a quote is opened and never closed"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_reason(
    files: list[str], tmp_path: Path, content: bytes | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    for position in (1, 3):
        options = [*files]
        options[position] = str(path)
        assert run(["drift", *options, "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["code"] == "artifact_rejected"
        assert words in document["error"]


def test_what_a_file_holds_is_shown_and_never_done_by_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column that would clear the screen, and a category that would colour it and turn the text around."""
    options = []
    for option, label in (("--reference", "a"), ("--current", "\x1b[31mb\u202e")):
        path = tmp_path / f"{option[2:]}.parquet"
        pd.DataFrame({"\x1b[2Jx": ["a"] * 500 + [label] * 500}).to_parquet(path)
        options += [option, str(path)]
    assert run(["drift", *options]) == 0
    out = capsys.readouterr().out
    assert "␛[2Jx" in out
    assert "␛[31mb" in out
    assert not {"\x1b", "\u202e"} & set(out)
    assert run(["drift", *options, "--by-time", "\x1b[2Jy\u202e"]) == 2
    assert not {"\x1b", "\u202e"} & set(capsys.readouterr().err)


@pytest.mark.parametrize("where", [".", "nowhere/report.html"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    files: list[str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    monkeypatch.setattr("driftgate.drift.compare", lambda *_, **__: pytest.fail("it compared"))
    assert run(["drift", *files, "--html", str(tmp_path / where), "--json"]) == 2
    assert "no file can be written there" in json.loads(capsys.readouterr().out)["error"]


def test_an_alarm_that_the_latest_rows_do_not_show_is_not_told_by_them() -> None:
    alarm = {"version": 2, "kind": "input", "feature": "age", "since": "2026-01-31T12:00:00.000000Z"}
    quiet = {"version": 2, "kind": "input", "feature": "age", "moved": [], "sentence": "No single part of it moved."}
    moved = {**quiet, "moved": [{"what": "missing"}], "sentence": "Every value is missing now; 0 % were."}
    (said,) = _told({"alarms": [alarm], "features": [quiet]})
    assert "No single part" not in said
    assert "The latest rows do not show what raised it" in said
    (said,) = _told({"alarms": [alarm], "features": [moved]})
    assert said.endswith("Every value is missing now; 0 % were.")


def test_a_narrow_table_keeps_every_character() -> None:
    table = plain_table("", "guardrail", ">evidence", "verdict")
    table.add_row("shadow_disagreement", "-12.9 of 3.7", shown_verdict("unknown", "not_enough"))
    screen = Console(width=34, file=io.StringIO())
    screen.print(table)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    cells = [line.split("│")[1:-1] for line in shown.splitlines() if line.startswith("│")]
    assert "".join(row[0].strip() for row in cells) == "shadow_disagreement"
    assert "".join(row[2].strip() for row in cells) == "unknown(not_enough)"
