"""The report: one page that asks nobody for anything, says everything as text, and escapes what tables hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from driftgate import drift
from driftgate.drift_histogram import cells_of
from driftgate.drift_plot import plot
from tests.support.browser import browsing

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

EVIL = "<script>alert('x')</script> & \"$y^2$\""


def compared(rows: int = 2000, **more: Any) -> drift.Comparison:
    rng = np.random.default_rng(0)
    sides = [
        {
            "x": rng.normal(shift, 1, rows),
            EVIL: rng.choice([EVIL, "b", "c" * 300], rows, p=[0.5 - shift / 2, 0.3, 0.2 + shift / 2]).tolist(),
            "few": rng.integers(0, 5, rows),
            "none": [None] * rows,
            "day": rng.integers(0, 400, rows).astype("datetime64[D]"),
        }
        for shift in (0.0, 0.5)
    ]
    return drift.compare(*sides, **more)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written report."""
    return compared().write_html(tmp_path_factory.mktemp("report") / "report.html")


class Outline(HTMLParser):
    """Tags, the text alternatives of pictures, and whatever points elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alternatives: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "img":
            self.alternatives.append(given.get("alt") or "")
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_speaks_without_its_pictures(report: Path) -> None:
    page = Outline()
    page.feed(report.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in page.links)
    assert len(page.alternatives) == 5
    assert all(len(text) > 20 for text in page.alternatives)
    assert page.tags.count("h1") == 1
    assert "2 of 5 features moved" in report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_comparison_gives_the_same_page(report: Path, tmp_path: Path) -> None:
    assert compared().write_html(tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        compared(200, skip=["x", "few", "none", "day"]).write_html(tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "label", ["\x1b[2J", "nul\0", "\ufffe", "日本語", "a\nb", "costs $1 or more, in all $2", "c" * 21 + "$$"]
)
def test_a_picture_is_xml_whatever_a_category_is_called(label: str, recwarn: pytest.WarningsRecorder) -> None:
    """A browser shows nothing of a picture that is none."""
    sides = [{"c": [label, "b", "b"] * 200}, {"c": [label, label, "b"] * 200}]
    picture = ElementTree.fromstring(plot(drift.compare(*sides).features[0]))
    assert picture.tag.endswith("svg")
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("last", ["2005-01-01", "9999-12-31"])
def test_dates_below_a_picture_are_few_and_short(last: str) -> None:
    """Long ones lie one upon the other."""
    rng = np.random.default_rng(0)
    days = [np.datetime64("1950-01-01") + rng.integers(0, 20_000, 2000) for _ in range(2)]
    days[1][:200] = np.datetime64(last)
    picture = plot(drift.compare(*({"born": side} for side in days)).features[0]).decode()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    assert {"1960", "1980", "2000"} <= set(texts)
    assert max(map(len, texts)) <= 10


def test_dates_beyond_any_calendar_are_drawn() -> None:
    far = pa.array([2**62 + 1000 * at for at in range(2000)], pa.int64()).cast(pa.timestamp("ms"))
    (found,) = drift.compare({"at": far}, {"at": far}, types={"at": "date"}).features
    assert b"a date out of range" in plot(found)


def test_what_could_not_be_judged_is_not_told_as_what_did_not_move(tmp_path: Path) -> None:
    page = compared(60).write_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "4 of 5 features could not be judged" in page
    assert "Nothing moved" not in page


def test_a_category_that_the_reference_never_had_is_not_among_all_others() -> None:
    labels = [f"c{at}" for at in range(20)]
    (found,) = drift.compare({"c": labels * 100}, {"c": [*labels, "new"] * 100}).features
    assert [cell.what for cell in cells_of(found, 8)][-1] == "all others"
    assert "not in the reference" in [item.what for item in found.bins]


def test_cells_of_both_sides_add_up_to_one() -> None:
    for feature in compared().features:
        for most in (3, 8, 24):
            cells = cells_of(feature, most)
            assert len(cells) <= most
            if cells:
                assert sum(cell.reference for cell in cells) == pytest.approx(1.0)
                assert sum(cell.current for cell in cells) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.tool("chromium-headless-shell")
def test_a_browser_shows_it_without_complaint_on_a_phone_and_a_desk(report: Path, tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as page:
        for width, mobile in ((390, True), (1280, False)):
            page.command(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile
            )
            page.go(report.as_uri())
            page.wait_for("document.readyState === 'complete' && document.images.length === 5")
            assert page.run("[...document.images].every(image => image.naturalWidth > 100)")
            assert page.run("document.documentElement.scrollWidth") <= width
        assert page.complaints == []
        assert [url for url in page.requests if not re.match(r"file:|data:|about:", url)] == []
