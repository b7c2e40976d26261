"""Every scenario runs, in its quick form, and leaves a result that can be read; the frame around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.result import UnreadableResult, read
from bench.scenario import Scenario, discover, execute, parser_of

SCENARIOS = discover()


@pytest.mark.slow
@pytest.mark.timeout(300)  # some start two gateways and register four versions
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_runs_quickly_and_its_result_can_be_read(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    if reason := scenario.lacks():
        pytest.skip(reason)
    result, path = execute(scenario, ["--quick", "--results", str(tmp_path)])
    assert read(path) == result
    assert result.scenario == name
    assert result.figures
    assert result.bars
    assert {bar.figure for bar in result.bars} <= set(result.figures)
    assert result.command == f"python -m bench run {name} --quick"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_what_it_is_and_takes_the_common_flags(name: str) -> None:
    module = SCENARIOS[name].load()
    assert len(module.SUMMARY) <= 120
    assert module.__doc__
    arguments = parser_of(SCENARIOS[name]).parse_args(["--quick", "--pairs", "3", "--seconds", "0.5"])
    assert (arguments.quick, arguments.pairs, arguments.seconds) == (True, 3, 0.5)


def test_scenarios_are_listed_with_what_they_lack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SCENARIOS)


def test_an_unknown_scenario_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nonsense", "--quick"]) == 2
    assert "nonsense: the scenarios are" in capsys.readouterr().err


def test_a_scenario_that_needs_the_material_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTGATE_TEST_MATERIAL", raising=False)
    needy = [scenario for scenario in SCENARIOS.values() if "material" in getattr(scenario.load(), "NEEDS", ())]
    assert needy
    assert all(isinstance(scenario, Scenario) and scenario.lacks() for scenario in needy)


def test_a_newer_result_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"format": "driftgate.bench", "v": 2}))
    with pytest.raises(UnreadableResult, match=r"driftgate\.bench v2; this bench reads up to v1"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "driftgate.plan", "v": 1}', '{"format": "driftgate.bench"}'])
def test_another_file_is_no_result(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UnreadableResult):
        read(path)
