"""The dashboard's queries as Prometheus gets them: variables filled in, one entry a query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards" / "driftgate.json"


@dataclass(frozen=True)
class Query:
    """One query and where it stands."""

    panel: str
    expression: str


def load() -> dict[str, Any]:
    """The dashboard as JSON."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def queries(*, rate_interval: str = "1m") -> list[Query]:
    """Every panel's queries, then the annotations', with Grafana's variables replaced as Grafana does."""
    dashboard = load()
    written = [
        Query(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    written += [Query(f"annotation {item['name']}", item["expr"]) for item in dashboard["annotations"]["list"]]
    values = {variable["name"]: variable["allValue"] for variable in dashboard["templating"]["list"]}
    return [Query(query.panel, _filled(query.expression, values, rate_interval)) for query in written]


def _filled(expression: str, values: dict[str, str], rate_interval: str) -> str:
    filled = expression.replace("$__rate_interval", rate_interval)
    for name, value in values.items():
        filled = filled.replace(f"${name}", value)
    return filled
