"""What is made of result files: comparisons, pictures, the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.compare import changes
from bench.compare import main as compare
from bench.plots import main as plot
from bench.report import main as report
from bench.report import render
from bench.result import Curve, Result


def result_of(rate: float = 100.0, p99: float = 5.0, **more: object) -> Result:
    result = Result("bursts")
    result.add("gateway", "requests/s", [rate * factor for factor in (0.98, 0.99, 1.0, 1.01, 1.02)], "higher")
    result.add("p99", "ms", [p99 * factor for factor in (0.9, 1.0, 1.1)], "lower")
    result.ratio("gateway / bare", [2.0, 3.0, 4.0], [2.0, 2.0, 2.0])
    result.bar("against the bare app", "gateway / bare", ">=", 1.2)
    result.bar("p99, ms", "p99", "<=", 4.0)
    result.machine = {
        "cpu": "a processor",
        "cores": 2,
        "kernel": "Linux 6",
        "python": "3.11.7",
        "versions": {"numpy": "2"},
    }
    result.commit, result.when = {"id": "abc", "changed": False}, "2026-01-02T03:04:05Z"
    result.command = "python -m bench run bursts"
    for name, value in more.items():
        setattr(result, name, value)
    return result


def stored(result: Result, path: Path) -> str:
    result.save(path)
    return str(path)


def test_bars_are_judged_by_medians() -> None:
    result = result_of()
    assert [bar.says for bar in result.missed] == ["p99, ms"]
    assert "MISSED p99, ms: 5, wanted <= 4" in result.table()
    assert "holds  against the bare app: 1.5, wanted >= 1.2" in result.table()


def test_a_change_counts_only_beyond_the_spread() -> None:
    verdicts = {change.name: change.verdict for change in changes(result_of(), result_of(rate=90.0, p99=5.2))}
    assert verdicts == {"gateway": "worse", "p99": "within spread", "gateway / bare": "within spread"}
    verdicts = {change.name: change.verdict for change in changes(result_of(), result_of(rate=110.0, p99=3.0))}
    assert verdicts == {"gateway": "better", "p99": "better", "gateway / bare": "within spread"}


def test_two_files_are_compared_with_medians_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stored(result_of(), tmp_path / "a.json")
    after = stored(result_of(rate=90.0, machine={"cpu": "another", "cores": 8}), tmp_path / "b.json")
    assert compare([before, after]) == 1
    said = capsys.readouterr().out
    assert "-10.0%" in said
    assert "100 (99 to 101)" in said
    assert "different machines: only ratios may be compared" in said
    assert compare([before, before]) == 0


def test_files_of_two_scenarios_are_not_compared(tmp_path: Path) -> None:
    files = [stored(result_of(), tmp_path / "a.json"), stored(result_of(scenario="mixed"), tmp_path / "b.json")]
    assert compare(files) == 2
    assert compare([files[0], str(tmp_path / "absent.json")]) == 2


def test_the_page_has_ratios_first_then_doubts_then_figures() -> None:
    peer = {"package": "other==1.2", "settings": "one worker"}
    page = render([result_of(facts={"other": peer}, notes=["12 % of the machine were taken by other work"])])
    assert "| [bursts](#bursts): against the bare app | 1.5 (1 to 2) | at least 1.2 | holds |" in page
    assert "| [bursts](#bursts): p99, ms | 5 (4.5 to 5.5) ms | at most 4 | **missed** |" in page
    assert "- other: `other==1.2`, one worker" in page
    assert page.index("## Ratios") < page.index("## Promises") < page.index("## Doubts") < page.index("## Figures")
    assert "    python -m bench run bursts" in page
    assert "Commit abc, 2026-01-02T03:04:05Z; a processor, 2 cores, Linux 6, Python 3.11.7, numpy 2." in page
    assert "- Doubt: 12 % of the machine were taken by other work." in page


def test_quick_runs_are_no_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([stored(result_of(quick=True), tmp_path / "a.json")]) == 2
    assert "quick runs are no measurements" in capsys.readouterr().err


def test_the_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    assert report([stored(result_of(), tmp_path / "a.json"), "--write", str(page)]) == 0
    assert page.read_text() == render([result_of()])


@pytest.mark.slow
def test_a_picture_is_drawn_of_ratios_tails_and_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench group is not installed")
    hdr = pytest.importorskip("hdrh.histogram", reason="the bench group is not installed")
    histogram = hdr.HdrHistogram(1, 10_000_000, 3)
    for value in np.random.default_rng(1).lognormal(7, 1, 5000):
        histogram.record_value(int(value) + 1)
    result = result_of(
        histograms={"normal": histogram.encode().decode()}, curves={"memory": Curve("s", "MiB", [0.0, 1.0], [5.0, 6.0])}
    )
    file = stored(result, tmp_path / "a.json")
    assert plot([file]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_a_result_without_anything_to_draw_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the bench group is not installed")
    bare = Result("bursts")
    bare.add("one", "ms", 1.0)
    assert plot([stored(bare, tmp_path / "a.json")]) == 1
    assert "neither ratios nor distributions nor curves" in capsys.readouterr().err
