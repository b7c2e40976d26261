"""From counts of two tables to findings: measured, ranked, explained. Pure. Called by `driftgate/drift.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from driftgate.drift_columns import Column
from driftgate.drift_compare import Learned
from driftgate.drift_compare import Side as Counted
from driftgate.drift_result import Bin, FeatureDrift, Moved, Statistic
from driftgate.drift_timeline import Moment
from monitor.counts import ColumnBins
from monitor.explain import Sample, bin_names, explain
from monitor.profile import ColumnProfile

if TYPE_CHECKING:
    from monitor.drift import Measurement

_NAMED_UNSEEN = 3


def judge(
    learned: Learned,
    current: Counted,
    outputs: frozenset[str],
    probability: float,
    moments: Mapping[str, Moment],
) -> list[FeatureDrift]:
    """Every compared feature, worst first. `probability` is that of any false alarm of the distances between the two
    tables; `moments` has the features that moved in the order of time."""
    from monitor.drift import count_of_tests, measure  # they bring scipy

    level = probability / max(count_of_tests(learned.profile), 1)
    measured = measure(learned.profile, current.counts, None, window="all", level=level)
    found = []
    for at, (_, group) in enumerate(groupby(measured, key=lambda m: m.feature)):
        column = learned.columns[at]
        kind = "output" if column.name in outputs else "input"
        found.append(_feature(learned, current, at, kind, group, moments.get(column.name)))
    return sorted(found, key=lambda f: (not f.alarm, f.verdict == "unknown", -_excess(f)))


def _feature(
    learned: Learned, current: Counted, at: int, kind: str, measured: Iterable[Measurement], moment: Moment | None
) -> FeatureDrift:
    column, profile = learned.columns[at], learned.profile.inputs[at]
    statistics = tuple(map(_statistic, measured)) + ((_evidence(moment),) if moment else ())
    worst = _worst(statistics, some=bool(sum(profile.counts)) or bool(current.counts.of(at).sum()))
    before = Sample.expected(profile, learned.profile.rows)
    now = Sample.of(current.counts, at)
    tally = current.unseen.get(column.name)
    unseen = [label for label, _ in tally.most_common(_NAMED_UNSEEN)] if tally else []
    exact = column.name in learned.exact
    moved = moment.since if moment else now
    told = explain(
        profile.bins,
        before,
        moved,
        name=column.name_of,
        deff=profile.deff,
        exact=exact,
        unseen=unseen,
        noun=profile.noun,
    )
    unreadable = (int(learned.unreadable[at]), int(current.unreadable[at]))
    return FeatureDrift(
        feature=column.name,
        type=column.type,
        kind="output" if kind == "output" else "input",
        alarm=worst.verdict == "breach",
        verdict=worst.verdict,
        cause=worst.cause,
        statistic=worst.name,
        value=worst.value,
        threshold=worst.threshold,
        rows=worst.rows,
        explanation=" ".join(filter(None, [_when(moment, told.sentence), _unreadable(column, unreadable)])),
        direction=told.direction.value,
        moved=tuple(Moved(item.what, item.reference, item.current) for item in told.moved),
        statistics=statistics,
        bins=tuple(_bins(column, profile, before, now, exact)),
        missing=(before.missing_share, now.missing_share),
        unreadable=unreadable,
        design_effect=profile.deff,
        began=moment.began if moment else None,
    )


def _worst(statistics: Sequence[Statistic], *, some: bool) -> Statistic:
    """The statistic that speaks for its feature: an alarm, else one that could not be judged, else the largest."""
    breached = [item for item in statistics if item.verdict == "breach"]
    unknown = [item for item in statistics if item.verdict == "unknown"] if some else []
    known = [item for item in statistics if item.verdict != "unknown"]
    return max(breached or unknown or known or list(statistics), key=lambda item: item.excess)


def _excess(feature: FeatureDrift) -> float:
    return max(statistic.excess for statistic in feature.statistics)


def _statistic(m: Measurement) -> Statistic:
    return Statistic(
        name=m.statistic,
        value=m.value if math.isfinite(m.value) else None,
        threshold=m.threshold if math.isfinite(m.threshold) else None,
        rows=m.rows,
        verdict=m.verdict.value,
        cause=m.cause.value if m.cause else None,
    )


def _bins(column: Column, profile: ColumnProfile, before: Sample, now: Sample, exact: bool) -> Iterable[Bin]:
    bins: ColumnBins = profile.bins
    names = bin_names(bins, column.name_of, exact=exact)
    if bins.kind == "category" and profile.complete:
        names[-1] = "not in the reference"
    for at, (what, p, q) in enumerate(zip(names, before.shares, now.shares, strict=True)):
        if p == 0.0 == q:
            continue
        edges = bins.edges if bins.kind == "number" else ()
        low = edges[at - 1] if edges and at > 0 else None
        high = edges[at] if at < len(edges) else None
        if low is not None and high is not None and (exact or high == math.nextafter(low, math.inf)):
            high = low
        yield Bin(what, low, high, float(p), float(q))


def _unreadable(column: Column, rows: tuple[int, int]) -> str:
    if not rows[1]:
        return ""
    what = {"date": "dates", "boolean": "truth values"}.get(column.type, "numbers")
    return f"{rows[1]:,} current values are no {what} and count as missing."


def _when(moment: Moment | None, sentence: str) -> str:
    if moment is None:
        return sentence
    began = moment.began
    if began.ended_row is not None:
        when = f"Between rows {began.row:,} ({began.time}) and {began.ended_row:,} ({began.ended_time})"
    else:
        when = f"From row {began.row:,} ({began.time}) on" if began.row else "From the first row on"
    return f"{when}: {sentence[:1].lower()}{sentence[1:]}"


def _evidence(moment: Moment) -> Statistic:
    found = moment.evidence
    return Statistic("evidence", found.evidence_log10, found.limit_log10, found.rows, "breach", None)
