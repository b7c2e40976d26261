"""One feature's histogram as a picture: reference against current, in SVG.

Why SVG drawn by matplotlib, which most data scientists have already: it is sharp on a phone and in print, needs no
script, and stays readable in ten years. Invariant: pure; the same feature gives the same bytes. The only file that
imports matplotlib (the extra `report`). Called by `driftgate/drift_html.py`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftgate.drift_columns import shown_date
from driftgate.drift_histogram import Cell, cells_of
from driftgate.drift_result import FeatureDrift
from monitor.explain import shown
from registry.errors import NotEnabled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blue and orange of Okabe and Ito (2008): told apart by every kind of colour vision, and in grey by the outline.
REFERENCE, CURRENT, INK, FAINT = "#5b7083", "#d55e00", "#1f2933", "#d9e0e6"
_CELLS, _CATEGORIES = 24, 8
_SIZE_IN = (4.6, 2.3)
_ROOM_IN = 0.12  # at both sides: a reader's font may be wider than the one that was measured
_LABEL = 22  # characters of a category's name

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_DAY_S = 86_400.0
_FIRST_DAY, _LAST_DAY = -700_000.0, 2_900_000.0  # since 1970, that Python has dates for: years 53 to 9909


def need_charts() -> None:
    """Raises NotEnabled, saying what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NotEnabled("the HTML report needs matplotlib: pip install 'driftgate[report]'") from None


def plot(feature: FeatureDrift) -> bytes:
    """The SVG of a feature. Raises NotEnabled."""
    need_charts()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "driftgate", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=_SIZE_IN, layout=ConstrainedLayoutEngine(w_pad=_ROOM_IN))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        categories = all(item.low is None and item.high is None for item in feature.bins)
        cells = cells_of(feature, _CATEGORIES if categories else _CELLS)
        if not cells:
            axes.text(0.5, 0.5, "no values to draw", ha="center", va="center", color=INK, transform=axes.transAxes)
            axes.set_axis_off()
        elif categories:
            _draw_categories(axes, cells)
        else:
            _draw_numbers(axes, cells, is_date=feature.type == "date")
        out = io.BytesIO()
        with warnings.catch_warnings():
            # Texts stay texts, so the reader's fonts draw them, and not matplotlib's, which has no Chinese.
            warnings.filterwarnings("ignore", r"Glyph \d+")
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return out.getvalue()


def _draw_numbers(axes: Axes, cells: Sequence[Cell], *, is_date: bool) -> None:
    before, now = [100 * cell.reference for cell in cells], [100 * cell.current for cell in cells]
    inner = [(cell.low, cell.high) for cell in cells if cell.low is not None and cell.high is not None]
    if not inner or any(low == high for low, high in inner):  # a bar for each value
        places, width = range(len(cells)), 0.4
        axes.bar([at - width / 2 for at in places], before, width, color=REFERENCE)
        axes.bar([at + width / 2 for at in places], now, width, color=CURRENT)
        ticks = list(places)[:: -(-len(cells) // 8)]
        axes.set_xticks(ticks, [_short(cells[at].what) for at in ticks])
    else:
        width = (inner[-1][1] - inner[0][0]) / len(inner)
        edges = [inner[0][0] - width, *(low for low, _ in inner), inner[-1][1], inner[-1][1] + width]
        scale = _DAY_S if is_date else 1.0  # matplotlib's dates are days since 1970
        edges = [edge / scale for edge in edges]
        axes.stairs(before, edges, color=REFERENCE, fill=True, alpha=0.45)
        axes.stairs(now, edges, color=CURRENT, linewidth=1.8)
        axes.set_xlim(edges[0], edges[-1])
        _mark(axes, is_date=is_date)
    axes.set_ylabel("% of rows")
    axes.set_ylim(0, max([*before, *now]) * 1.08)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    _bare(axes)


def _mark(axes: Axes, *, is_date: bool) -> None:
    """A few round places below the axis, each named."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    if is_date and _FIRST_DAY < low < high < _LAST_DAY:
        places = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(places)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(places))  # type: ignore[no-untyped-call]
        return
    axes.xaxis.set_major_locator(MaxNLocator(5 if not is_date else 2))
    axes.xaxis.set_major_formatter(lambda value, _: _short(shown_date(value * _DAY_S) if is_date else shown(value)))


def _draw_categories(axes: Axes, cells: Sequence[Cell]) -> None:
    height = 0.38
    places = [len(cells) - 1 - at for at in range(len(cells))]
    axes.barh([at + height / 2 for at in places], [100 * cell.reference for cell in cells], height, color=REFERENCE)
    axes.barh([at - height / 2 for at in places], [100 * cell.current for cell in cells], height, color=CURRENT)
    axes.set_yticks(places, [_short(cell.what) for cell in cells])
    axes.set_xlabel("% of rows")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)


def _short(text: str) -> str:
    plain = _NOT_XML.sub("\ufffd", " ".join(text.split()))  # one line; a browser shows no picture with what XML forbids
    cut = plain if len(plain) <= _LABEL else f"{plain[: _LABEL - 1]}…"
    return cut.replace("$", r"\$")  # matplotlib reads formulas between dollar signs
