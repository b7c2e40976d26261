"""The monitor's part of `/metrics`: lanes, records, drift, data quality, scores, labels, live errors, pairs.

Pure: families from snapshots. Features are the worst K of each version; alarms also have a total (feature `*`), so
that a counter does not vanish when its feature is no longer among the worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.control.drifting import cohens_h
from monitor.alarms import Key as AlarmKey
from monitor.live import FAST, Live, columns_in
from monitor.worker import MonitorSnapshot

# (model, version, role) → rows offered and dropped where no lane could be made
LaneLess = Mapping[tuple[str, int, str], tuple[int, int]]
OUTCOMES = ("offered", "committed", "dropped", "sampled", "consumed")
ALL = "*"


def monitor_families(seen: MonitorSnapshot, lane_less: LaneLess, live: Live) -> Iterator[Metric]:
    """Every family."""
    yield from _lanes(seen, lane_less)
    yield from _drift(live)
    yield _quality(live)
    yield from _samples(live)
    yield from _audits(live)
    yield from _scores(live)
    labels = CounterMetricFamily(
        "driftgate_labels", "Labelled rows. version 0: their prediction was not found.", labels=(*_VERSION, "outcome")
    )
    for (model, version, outcome), count in sorted(seen.labels.items()):
        labels.add_metric([model, str(version), outcome], count)
    yield labels
    waiting = GaugeMetricFamily("driftgate_labels_waiting", "Labels that wait for their row.", labels=("model",))
    for model, count in sorted(seen.labels_waiting.items()):
        waiting.add_metric([model], count)
    yield waiting
    errors = GaugeMetricFamily(
        "driftgate_live_error",
        "Where labels came: the share of wrong classes, or the mean absolute error.",
        labels=(*_VERSION, "output"),
    )
    for (model, version, output), error in sorted(seen.live_error.items()):
        if error.n:
            errors.add_metric([model, str(version), output], error.value)
    yield errors
    ratio = GaugeMetricFamily(
        "driftgate_shadow_disagreement_ratio", "Share of compared rows that disagree, in this rollout.", labels=_VERSION
    )
    for model, rollout in sorted(seen.rollouts.items()):
        if rollout.pairs.rows:
            ratio.add_metric([model, str(rollout.watch.candidate)], rollout.pairs.disagreements / rollout.pairs.rows)
    yield ratio


_VERSION = ("model", "version")
_KINDS = (*_VERSION, "kind")


def _lanes(seen: MonitorSnapshot, lane_less: LaneLess) -> Iterator[Metric]:
    records = CounterMetricFamily(
        "driftgate_lane_records", "Rows of answers in the lanes.", labels=(*_VERSION, "role", "outcome")
    )
    waiting: dict[tuple[str, int], int] = {}
    for key in sorted({*seen.lanes, *lane_less}):
        model, version, role = key
        lane = seen.lanes.get(key)
        offered, dropped = lane_less.get(key, (0, 0))
        for outcome in OUTCOMES:
            count = getattr(lane, outcome) if lane is not None else 0
            count += {"offered": offered, "dropped": dropped}.get(outcome, 0)
            records.add_metric([model, str(version), role, outcome], count)
        waiting[model, version] = waiting.get((model, version), 0) + (lane.waiting if lane is not None else 0)
    yield records
    gauge = GaugeMetricFamily("driftgate_lane_waiting_records", "Rows that were not drained yet.", labels=_VERSION)
    for (model, version), count in waiting.items():
        gauge.add_metric([model, str(version)], count)
    yield gauge
    counted = CounterMetricFamily("driftgate_monitor_records", "Rows that the monitor has counted.")
    counted.add_metric([], seen.records)
    yield counted
    failures = CounterMetricFamily("driftgate_monitor_failures", "Times that drift could not be judged.")
    failures.add_metric([], seen.failures)
    yield failures
    torn = CounterMetricFamily("driftgate_lane_torn", "Rows given up because their checksum stayed bad.")
    torn.add_metric([], sum(lane.torn for lane in seen.lanes.values()))
    yield torn


def _drift(live: Live) -> Iterator[Metric]:
    labels = (*_VERSION, "kind", "feature", "statistic", "window")
    statistic = GaugeMetricFamily("driftgate_drift_statistic", "How far a column moved.", labels=labels)
    threshold = GaugeMetricFamily("driftgate_drift_threshold", "Its limit.", labels=labels)
    evidence = GaugeMetricFamily(
        "driftgate_drift_evidence_log10", "Evidence of drift: of this window alone, or (fast) so far.", labels=labels
    )
    alarms = CounterMetricFamily("driftgate_drift_alarms", "Alarms raised; feature *: all of them.", labels=labels)
    active = GaugeMetricFamily("driftgate_drift_active", "Columns with an alarm that has not ended.", labels=_KINDS)
    for (model, number), known in sorted(live.versions.items()):
        version, totals = str(number), known.alarms.totals
        shown: set[AlarmKey] = set()
        for found in known.worst(live.features_shown):
            values = [model, version, *found.key]
            if math.isfinite(found.value) and math.isfinite(found.threshold):
                statistic.add_metric(values, found.value)
                threshold.add_metric(values, found.threshold)
            if found.evidence_log10 is not None:
                evidence.add_metric(values, found.evidence_log10)
            shown.add(found.key)
        together = known.stream.together
        for row in [*known.stream.worst(live.features_shown), *(together.evidence() if together else ())]:
            values = [model, version, row.side, row.feature, row.family, FAST]
            statistic.add_metric(values, abs(row.effect_h))
            threshold.add_metric(values, cohens_h(row.limit, row.reference))
            evidence.add_metric(values, row.evidence_log10)
            shown.add((row.side, row.feature, row.family, FAST))
        for key in sorted(shown):
            alarms.add_metric([model, version, *key], totals.get(key, 0))
        up = columns_in(known.alarms.active)
        for kind in ("input", "output"):
            total = sum(count for alarm, count in totals.items() if alarm[0] == kind)
            alarms.add_metric([model, version, kind, ALL, ALL, ALL], total)
            active.add_metric([model, version, kind], sum(alarm[0] == kind for alarm in up))
    yield from (statistic, threshold, evidence, alarms, active)


def _samples(live: Live) -> Iterator[Metric]:
    rows = CounterMetricFamily(
        "driftgate_drift_sampled_records", "Rows looked at as a whole, for drift of inputs together.", labels=_VERSION
    )
    ratio = GaugeMetricFamily("driftgate_drift_sample_ratio", "Share of the rows that are so.", labels=_VERSION)
    for (model, version), known in sorted(live.versions.items()):
        if known.stream.together is not None:
            rows.add_metric([model, str(version)], known.stream.together.sampled)
            ratio.add_metric([model, str(version)], known.stream.together.sample.rate)
    yield from (rows, ratio)


def _quality(live: Live) -> Metric:
    ratio = GaugeMetricFamily(
        "driftgate_data_quality_ratio", "Share of rows with a problem.", labels=(*_VERSION, "feature", "problem")
    )
    for key, known in sorted(live.versions.items()):
        for found in known.worst_quality(live.features_shown):
            ratio.add_metric([key[0], str(key[1]), found.feature, found.problem], found.ratio)
    return ratio


def _scores(live: Live) -> Iterator[Metric]:
    names = (*_VERSION, "role", "output", "stream")
    mean = GaugeMetricFamily(
        "driftgate_score_mean",
        "Mean of what a version says (top_score, score, value) and of its loss, over ADWIN's window.",
        labels=names,
    )
    window = GaugeMetricFamily("driftgate_score_window_records", "Rows in ADWIN's window.", labels=names)
    changes = CounterMetricFamily(
        "driftgate_score_changes",
        "Changes that ADWIN or Page-Hinkley found: a picture, no alarm, with no promise of how many are false.",
        labels=(*names, "detector"),
    )
    for (model, version), known in sorted(live.versions.items()):
        for seen in known.scores.views():
            values = [model, str(version), seen.role, seen.output, seen.kind]
            if seen.mean is not None:
                mean.add_metric(values, seen.mean)
            window.add_metric(values, seen.window_rows)
            for detector, (count, _) in seen.changes.items():
                changes.add_metric([*values, detector], count)
    yield from (mean, window, changes)


def _audits(live: Live) -> Iterator[Metric]:
    alarms = CounterMetricFamily(
        "driftgate_self_audit_alarms", "Alarms of the self-audit, where nothing can have drifted.", labels=("audit",)
    )
    expected = GaugeMetricFamily(
        "driftgate_self_audit_expected", "Alarms that its promise of one an hour allows so far.", labels=("audit",)
    )
    for name, tally in live.audits.items():
        alarms.add_metric([name], tally.alarms)
        expected.add_metric([name], tally.expected)
    yield from (alarms, expected)
