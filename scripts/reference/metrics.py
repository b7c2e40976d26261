"""docs/reference/metrics.md: every metric family that a controller shows, also before anything has happened."""

from __future__ import annotations

from gateway.control.metrics import DriftgateCollector
from scripts.reference.fresh import fresh_controller
from scripts.reference.table import table

INTRODUCTION = """# Metrics

`GET /metrics` on the control port shows the whole host: counters of all workers, living and dead, added up, so that a
worker that was restarted resets nothing. A histogram `NAME` has the series `NAME_bucket`, `NAME_sum` and `NAME_count`.
Labels are bounded: features are the ones that moved most (`monitor.features_shown` of a version, and
`monitor.features_shown_in_all` of all versions, in equal shares). Counters appear with their first event.

"""


def page() -> str:
    """The page."""
    with fresh_controller() as controller:
        families = list(DriftgateCollector(controller, "").collect())
    rows = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()) or _labels(family))
        rows.append([f"`{name}`", family.type, labels, family.documentation])
    if len({row[0] for row in rows}) != len(rows):
        raise SystemExit("two metric families have one name")
    return INTRODUCTION + table(["Metric", "Type", "Labels", "Meaning"], sorted(rows))


def _labels(family: object) -> list[str]:
    samples = getattr(family, "samples", [])
    return sorted({label for sample in samples for label in sample.labels} - {"le"})
