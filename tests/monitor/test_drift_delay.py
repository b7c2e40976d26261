"""How soon a drift is seen: the promised table, in records, medians over seeds."""

from __future__ import annotations

import pytest

from bench.scenarios import delay


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", delay.CASES, ids=lambda case: case.name)
def test_the_median_delay_is_within_its_bar(case: delay.Case) -> None:
    delays = delay.delays(case, seeds=20, deff=1)
    assert len(delays) == 20
    assert delay.median(delays) <= case.bar


@pytest.mark.parametrize("name", ["mean +0.5 sd", "1 % missing"])
def test_a_large_drift_is_seen_at_once(name: str) -> None:
    (case,) = [case for case in delay.CASES if case.name == name]
    assert delay.median(delay.delays(case, seeds=1, deff=1)) <= case.bar
