"""The demo's ending: success only when everything that it must show really happened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.demo import story
from gateway.demo.outcome import Outcome, closing_rows, decisive
from gateway.demo.tell import closing_table
from registry.errors import InternalError, InvalidSetting


def document(state: str, evidence: float = 5.0) -> dict[str, Any]:
    guardrail = {
        "name": "labels",
        "verdict": "breach",
        "evidence_log10": evidence,
        "limit_log10": 4.0,
        "promotion_evidence_log10": 2.0,
        "promotion_limit_log10": 1.3,
    }
    drift = {"name": "output_drift", "verdict": "pass", "evidence_log10": None, "limit_log10": None}
    silent = {**drift, "promotion_evidence_log10": None, "promotion_limit_log10": None}
    requests = {"champion": 1, "canary": 2, "shadow": 3}
    return {"state": state, "guardrails": [guardrail, silent], "requests": requests, "reason": "why", "weight_pct": 0.0}


def good() -> Outcome:
    return Outcome(
        requests=100,
        promoted=document("succeeded"),
        rolled_back=document("rolled_back"),
        champion=2,
        weight_pct=0.0,
        moved=[{"feature": "temp", "verdict": "breach", "statistic": "psi", "value": 2.0}],
        stopped_in_order=True,
    )


def test_everything_that_must_happen_makes_success() -> None:
    assert good().ok


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests", 0),
        ("failed", 1),
        ("promoted", None),
        ("promoted", document("rolled_back")),
        ("rolled_back", None),
        ("rolled_back", document("succeeded")),
        ("rolled_back", document("rolled_back", evidence=3.9)),
        ("champion", 1),
        ("weight_pct", 5.0),
        ("weight_pct", None),
        ("moved", []),
        ("stopped_in_order", False),
    ],
)
def test_one_thing_that_did_not_happen_makes_failure(name: str, value: Any) -> None:
    outcome = good()
    setattr(outcome, name, value)
    assert not outcome.ok


def test_the_guardrail_that_decided_is_the_one_farthest_beyond_its_limit() -> None:
    rolled_back = document("rolled_back", evidence=4.5)
    rolled_back["guardrails"].append({"name": "errors", "evidence_log10": 9.0, "limit_log10": 3.0})
    found = decisive(rolled_back)
    assert found is not None
    assert found["name"] == "errors"
    assert decisive(document("aborted")) is None


def test_the_closing_table_names_evidence_and_canary_requests() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(closing_table(closing_rows(good())))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "promoted after 2 canary answers (burn-in apart) and 3 shadow ones" in shown
    assert "labels: evidence 5.0, limit 4.0" in shown


def test_a_demo_that_stops_half_way_fails_and_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        (tmp_path / "home" / "demo").mkdir(parents=True)
        (tmp_path / "home" / "demo" / "serve.log").write_text("last words\n")
        raise InternalError("the server did not start")

    monkeypatch.setattr(story, "_play", broken)
    console = Console(file=io.StringIO(), width=200)
    assert story.run(console, keep=False, as_json=False, home=tmp_path / "home") == 1
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "the server did not start" in shown
    assert "last words" in shown
    assert "not so: version 2 was promoted" in shown
    assert (tmp_path / "home").is_dir()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InvalidSetting, match="empty folder"):
        story.run(Console(file=io.StringIO()), keep=False, as_json=False, home=tmp_path)
