"""The report of a comparison: one page that can be mailed, printed and read on a phone.

Invariants: self-contained (no script, no request; the page's own policy forbids both); every picture has its sentence
and its numbers as text; whatever the tables held is escaped. Called by `Comparison.write_html`.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator
from pathlib import Path

from driftgate.drift_plot import CURRENT, REFERENCE, need_charts, plot
from driftgate.drift_result import Comparison, FeatureDrift
from driftgate.drift_result_together import Multivariate
from monitor.explain import percent

MOST_PLOTS = 100  # features that are drawn: all that moved first; the table has every feature

_WORDS = {"breach": "moved", "pass": "did not move", "unknown": "unknown"}
_MEASURES = {
    "psi": "PSI",
    "js": "Jensen-Shannon distance (js)",
    "ks": "Kolmogorov-Smirnov distance (ks)",
    "missing": "Change of the share of missing values",
    "unseen": "Change of the share of categories that the reference never had",
    "mistyped": "Share of fractions among whole numbers",
    "evidence": "Evidence in the order of time (log10 of an e-value)",
}
_STATISTICS = {
    "mmd": "MMD (random Fourier features), squared",
    "reconstruction": "Error of rebuilding rows from principal components",
}

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e0e6; --alarm: #b42318; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 68rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
p, td, li { overflow-wrap: anywhere; }
td:first-child { min-width: 7rem; }
.verdict { font-size: 1.1rem; }
.soft { color: var(--soft); }
.tag { display: inline-block; font-size: .75rem; font-weight: 600; padding: .05rem .5rem; border-radius: 1rem;
  white-space: nowrap; border: 1px solid currentColor; vertical-align: .1em; }
.breach { color: var(--alarm); } .pass { color: #1a6b3c; } .unknown { color: #8a5a00; }
.key span { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 .9rem; vertical-align: -.05rem; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; break-inside: avoid; min-width: 0; }
article.moved { border-left: 4px solid var(--alarm); }
article img { width: 100%; height: auto; display: block; margin: .5rem 0; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
a { color: #0b5cad; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } details { display: none; }
  .cards { grid-template-columns: 1fr 1fr; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""


def write(found: Comparison, path: Path) -> Path:
    """Write the report, whole or not at all. Raises NotEnabled without the extra `report`."""
    need_charts()
    page = "\n".join(_page(found))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _page(found: Comparison) -> Iterator[str]:
    moved = found.alarms
    title = f"Drift: {found.current.name} against {found.reference.name}"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{_text(title)}</h1>"
    )
    yield (
        f'<p class="soft">{found.current.rows:,} current rows against {found.reference.rows:,} reference rows, '
        f"{len(found.features):,} features.</p>"
    )
    if moved:
        names = ", ".join(f'<a href="#{_anchor(found, feature)}">{_text(feature.feature)}</a>' for feature in moved)
        yield (
            f'<p class="verdict"><strong class="breach">{len(moved):,} of {len(found.features):,} features moved'
            f"</strong>: {names}.</p>"
        )
    elif not found.is_alarm:
        unknown = sum(feature.verdict == "unknown" for feature in found.features)
        if unknown:
            yield (
                f'<p class="verdict"><strong class="unknown">{unknown:,} of {len(found.features):,} features could not '
                "be judged</strong>; nothing else moved beyond its limit.</p>"
            )
        else:
            yield '<p class="verdict"><strong class="pass">Nothing moved</strong> beyond its limit.</p>'
    if found.multivariate and found.multivariate.alarm:
        yield (
            '<p class="verdict"><strong class="breach">Columns together moved</strong>: <a href="#together">how '
            "they go together</a> is not as in the reference.</p>"
        )
    yield (
        '<p class="soft">Rows without drift raise any alarm at all with a probability of at most '
        f"{found.false_alarm_probability:g}, over all that this page compares.</p>\n</header>\n<main>"
    )
    yield from _cards(found)
    if found.multivariate:
        yield from _together(found.multivariate)
    yield from _table(found)
    yield from _remarks(found)
    yield "</main>\n</body>\n</html>"


def _cards(found: Comparison) -> Iterator[str]:
    drawn = found.features[:MOST_PLOTS]
    yield (
        f'<p class="key soft">Colours:<span style="background:{REFERENCE}"></span>reference'
        f'<span style="background:{CURRENT}"></span>current</p>'
    )
    for heading, some in (
        ("What moved", [feature for feature in drawn if feature.alarm]),
        ("What could not be judged", [feature for feature in drawn if feature.verdict == "unknown"]),
        ("What did not move", [feature for feature in drawn if feature.verdict == "pass"]),
    ):
        if some:
            yield f'<section>\n<h2>{heading}</h2>\n<div class="cards">'
            for feature in some:
                yield from _card(found, feature)
            yield "</div>\n</section>"
    rest = len(found.features) - len(drawn)
    if rest:
        yield f'<p class="soft">{rest:,} more features are in the table below, without a plot.</p>'


def _card(found: Comparison, feature: FeatureDrift) -> Iterator[str]:
    image = base64.b64encode(plot(feature)).decode()
    sentence = _text(feature.explanation)
    yield (
        f'<article id="{_anchor(found, feature)}" class="{"moved" if feature.alarm else ""}">\n'
        f'<h3>{_text(feature.feature)} {_tag(feature)} <span class="soft">{_text(feature.type)}</span></h3>\n'
        f"<p>{sentence}</p>\n"
        f'<img alt="Histogram of {_text(feature.feature)}, reference against current. {sentence}" '
        f'src="data:image/svg+xml;base64,{image}">\n<p class="soft">{_measured(feature)}</p>'
    )
    yield "<details><summary>Numbers</summary>\n<table>\n<thead><tr><th>values</th>"
    yield '<th class="n">reference</th><th class="n">current</th></tr></thead>\n<tbody>'
    for item in feature.bins:
        yield _row(item.what, item.reference, item.current)
    yield _row("missing (of all rows)", *feature.missing)
    yield "</tbody>\n</table></details>\n</article>"


def _measured(feature: FeatureDrift) -> str:
    if feature.value is None or feature.threshold is None:
        return f"{_MEASURES[feature.statistic]}: not measured ({feature.rows:,} rows with a value)."
    missing = ""
    if any(feature.missing):
        missing = f"; missing {_text(percent(feature.missing[0]))}, now {_text(percent(feature.missing[1]))}"
    return (
        f"{_MEASURES[feature.statistic]} is {feature.value:.3g}, its limit {feature.threshold:.3g}, over "
        f"{feature.rows:,} rows{missing}."
    )


def _row(what: str, before: float, now: float) -> str:
    shares = "".join(f'<td class="n">{_text(percent(share))}</td>' for share in (before, now))
    return f"<tr><td>{_text(what)}</td>{shares}</tr>"


def _table(found: Comparison) -> Iterator[str]:
    yield (
        '<section>\n<h2>All features</h2>\n<div class="scroll"><table>\n<thead><tr><th>feature</th><th>verdict</th>'
        '<th>statistic</th><th class="n">value</th><th class="n">limit</th><th class="n">rows</th></tr></thead>\n'
        "<tbody>"
    )
    for feature in found.features:
        value, limit = ("–" if number is None else f"{number:.3g}" for number in (feature.value, feature.threshold))
        yield (
            f"<tr><td>{_text(feature.feature)}</td><td>{_tag(feature)}</td><td>{_text(feature.statistic)}</td>"
            f'<td class="n">{value}</td><td class="n">{limit}</td><td class="n">{feature.rows:,}</td></tr>'
        )
    yield "</tbody>\n</table></div>\n</section>"


def _together(found: Multivariate) -> Iterator[str]:
    """How columns go together: measured on sampled rows, over all columns."""
    how = "" if found.run_rows == 1 else f", in runs of {found.run_rows:,} neighbours"
    yield (
        f'<section id="together">\n<h2>Columns together</h2>\n<p>{_text(found.explanation)}</p>\n'
        f'<p class="soft">{found.columns:,} columns, {found.rows:,} sampled rows of each side{how}.</p>'
    )
    if found.statistics:
        yield (
            '<div class="scroll"><table>\n<thead><tr><th>statistic</th><th>verdict</th><th class="n">value</th>'
            '<th class="n">limit</th><th class="n">effect</th><th class="n">p</th></tr></thead>\n<tbody>'
        )
        for row in found.statistics:
            numbers = (row.value, row.threshold, row.effect, row.p)
            yield (
                f"<tr><td>{_STATISTICS[row.name]}</td>"
                f'<td><span class="tag {row.verdict}">{_WORDS[row.verdict]}</span></td>'
                + "".join(f'<td class="n">{number:.3g}</td>' for number in numbers)
                + "</tr>"
            )
        yield "</tbody>\n</table></div>"
    if found.pairs:
        yield _head("correlation of")
        for pair in found.pairs:
            sides = "".join(f'<td class="n">{value:.2f}</td>' for value in (pair.reference, pair.current))
            yield f"<tr><td>{_text(pair.first)} and {_text(pair.second)}</td>{sides}</tr>"
        yield "</tbody>\n</table></div>"
    if found.errors:
        yield _head("unexplained variance of")
        for item in found.errors:
            yield _row(item.feature, item.reference, item.current)
        yield "</tbody>\n</table></div>"
    yield "</section>"


def _head(what: str) -> str:
    return (
        f'<div class="scroll"><table>\n<thead><tr><th>{what}</th><th class="n">reference</th>'
        '<th class="n">current</th></tr></thead>\n<tbody>'
    )


def _remarks(found: Comparison) -> Iterator[str]:
    said = [*found.notes, *(found.multivariate.remarks() if found.multivariate else ())]
    if found.only_in_reference:
        said.insert(0, f"Only in the reference: {', '.join(found.only_in_reference)}.")
    if found.only_in_current:
        said.insert(0, f"Only in the current rows: {', '.join(found.only_in_current)}.")
    said += [f"Not compared: {item.feature}: {item.why}." for item in found.not_compared]
    if said:
        yield "<section>\n<h2>Remarks</h2>\n<ul>"
        yield from (f"<li>{_text(line)}</li>" for line in said)
        yield "</ul>\n</section>"


def _tag(feature: FeatureDrift) -> str:
    word = _WORDS[feature.verdict]
    why = f" ({feature.cause.replace('_', ' ')})" if feature.cause else ""
    return f'<span class="tag {feature.verdict}">{word}{_text(why)}</span>'


def _anchor(found: Comparison, feature: FeatureDrift) -> str:
    return f"f{found.features.index(feature)}"


def _text(text: str) -> str:
    return html.escape(text, quote=True).replace(" %", "&nbsp;%")
