"""The pure parts of scenarios: what counts as recovered, as accounted for, as alike; and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench import peers
from bench.outcomes import ROW, Outcomes
from bench.pairs import alternate
from bench.peers.registry import PEERS
from bench.scenarios.overload import recovery_s
from bench.scenarios.soak import unaccounted


@pytest.mark.parametrize("name", ["result", "scenario", "pairs", "schedule", "compare", "scenarios.peers"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(f"bench.{name}"))
    assert tried.attempted > 0
    assert tried.failed == 0


def answered(latency_ms: list[float], statuses: list[int]) -> Outcomes:
    """A request each 10 ms."""
    rows = np.zeros(len(statuses), dtype=ROW)
    rows["intended_s"] = rows["sent_s"] = np.arange(len(statuses)) / 100
    rows["done_s"] = rows["intended_s"] + np.array(latency_ms) / 1e3
    rows["status"] = statuses
    return Outcomes(rows, ("all",), 0.0)


@pytest.mark.parametrize(
    ("slow", "refused", "expected"),
    [
        ((), (), 0.0),
        ((10,), (), 0.25),  # one slow answer in the first quarter
        ((), (30,), 0.5),  # a refusal in the second
        ((10, 80), (), 1.0),  # slow again later: not recovered before
    ],
)
def test_recovered_means_that_it_stays_so(slow: tuple[int, ...], refused: tuple[int, ...], expected: float) -> None:
    latencies, statuses = [5.0] * 100, [200] * 100
    for index in slow:
        latencies[index] = 500.0
    for index in refused:
        statuses[index] = 503
    assert recovery_s(answered(latencies, statuses), 0.0, 1.0, normal_p99_ms=10.0) == expected


@pytest.mark.parametrize(
    ("booked", "seen", "left", "expected"),
    [
        ({"200": 10, "400": 2}, {"200": 10, "400": 2}, 0, 0),
        ({"200": 12, "499": 1}, {"200": 10}, 4, 0),  # callers that left are booked as this, as that, or not at all
        ({"200": 12}, {"200": 10}, 1, 1),
        ({"200": 9}, {"200": 10}, 5, 1),  # an answer that nobody booked is never excused
        ({"200": 11, "503": 1}, {"200": 10, "503": 2}, 1, 1),
    ],
)
def test_every_request_is_accounted_for(booked: dict[str, int], seen: dict[str, int], left: int, expected: int) -> None:
    assert unaccounted(Counter(booked), Counter(seen), left) == expected


def test_contestants_run_in_turn_and_the_order_turns_too() -> None:
    ran: list[str] = []
    said: list[str] = []

    def run(name: str) -> int:
        ran.append(name)
        return len(ran)

    samples = alternate({name: partial(run, name) for name in ("a", "b")}, 3, said.append, str)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert said[0] == "pair  1/3: a 1  b 2"


def test_every_peer_is_written_down_with_its_adapter_and_pinned() -> None:
    adapters = {path.stem.removeprefix("in_") for path in Path(peers.__path__[0]).glob("in_*.py")}
    assert adapters == set(PEERS)
    assert all("==" in package for peer in PEERS.values() for package in peer.packages)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "triton"])  # that one reads its environment
def test_a_peers_start_writes_what_it_needs_and_nothing_else(name: str, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    start = PEERS[name].start(tmp_path / "peers", model, 1234, 1235)
    place = tmp_path / "peers" / f"bench-{name}"
    assert (place / "model.onnx").read_bytes() == b"model"
    assert (place / f"in_{name}.py").is_file()
    assert "1234" in start.ready
    assert start.command[0] == str(tmp_path / "peers" / name / "bin/python")
    assert [path.name for path in (tmp_path / "peers").iterdir()] == [f"bench-{name}"]
