"""What can be said of deploy/ without running it. The image itself is not built here (docs/operations.md says so)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.dashboard import load, queries
from tests.support.tools import need_tool

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def _yaml(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))
    return document


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in _yaml("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def _lock(name: str) -> dict[str, str]:
    """Package and marker → version, of a lock file."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([a-z0-9_.-]+)==(\S+)( ; .*?)? \\", line) for line in lines]
    return {pin[1] + (pin[3] or ""): pin[2] for pin in pins if pin}


def _promtool(*words: str) -> None:
    done = subprocess.run(
        [str(need_tool("promtool")), *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tool("promtool")
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    _promtool("check", "config", "prometheus.yml")


@pytest.mark.tool("promtool")
def test_every_alert_fires_on_its_own_series_and_not_before() -> None:
    _promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested() -> None:
    tested = {
        case["alertname"] for test in _yaml("prometheus/alerts_test.yml")["tests"] for case in test["alert_rule_test"]
    }
    assert tested == {alert["alert"] for alert in _alerts()}


def test_every_alert_has_a_section_in_the_operations_page_and_says_how_urgent_it_is() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^### (Driftgate\w+)$", page, re.MULTILINE))
    assert sections == {alert["alert"] for alert in _alerts()}
    for alert in _alerts():
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_alerts_and_dashboard_use_only_metrics_that_the_reference_page_lists() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(driftgate_\w+)", page))
    written = [query.expression for query in queries()] + [str(alert["expr"]) for alert in _alerts()]
    used = {name for expression in written for name in re.findall(r"driftgate_\w+", expression)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} - listed == set()


def test_the_dashboard_shows_every_metric_that_the_reference_page_lists() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(driftgate_\w+)", page, re.MULTILINE))
    shown = {name for query in queries() for name in re.findall(r"driftgate_\w+", query.expression)}
    assert listed - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set()


def test_the_dashboard_is_whole() -> None:
    dashboard = load()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    used: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not used & cells, f"{panel['title']} lies on another panel"
        used |= cells
    sources = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", [])}
    provisioned = _yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert sources == {source["uid"] for source in provisioned}
    assert "$" not in "".join(query.expression for query in queries()), "a variable that nothing fills"


def test_what_compose_mounts_and_builds_exists() -> None:
    services = _yaml("compose.yaml")["services"]
    build = services["driftgate"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    mounts = [volume for service in services.values() for volume in service["volumes"] if volume.startswith("./")]
    assert mounts
    for mount in mounts:
        assert (DEPLOY / mount.split(":")[0]).is_dir(), mount
    path = _yaml("grafana/provisioning/dashboards/driftgate.yaml")["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == path for volume in services["grafana"]["volumes"])


def test_no_service_publishes_the_control_port_or_runs_with_more_rights_than_it_needs() -> None:
    services = _yaml("compose.yaml")["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        published = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:") and not port.endswith(":8081") for port in published), name
    # Prometheus reads the control port on loopback, so it must live where that loopback is.
    assert services["prometheus"]["network_mode"] == "service:driftgate"
    assert _yaml("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"] == [
        {"targets": ["127.0.0.1:8081"]}
    ]


def test_a_container_is_given_longer_to_stop_than_a_drain_takes() -> None:
    from gateway.settings import GatewaySettings

    given_s = int(_yaml("compose.yaml")["services"]["driftgate"]["stop_grace_period"].removesuffix("s"))
    assert given_s > GatewaySettings().drain_s + GatewaySettings().grace_s


def test_the_image_runs_as_nobody_special_from_hashed_packages() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    last_stage = text.split("\nFROM ")[-1]
    assert re.search(r"^USER (?!0\b|root)\d+:\d+$", last_stage, re.MULTILINE)
    assert "--require-hashes" in text
    assert "pip install" not in last_stage
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_the_images_packages_are_those_that_the_tests_ran_with() -> None:
    ours, images = _lock("dev.lock"), _lock("run.lock")
    assert len(images) > 30
    assert images.items() <= ours.items()
    assert not {"pytest", "ruff", "mypy", "lightgbm"} & set(images)
