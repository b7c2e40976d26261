"""When a breaker opens, and whom it lets through: against a naive reading of its history, for any history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.data.breaker import Breaker

FAILURES, WITHIN_S, COOL_DOWN_S = 3, 10.0, 5.0


def breaker() -> Breaker:
    return Breaker(FAILURES, WITHIN_S, COOL_DOWN_S)


def test_only_so_many_failures_within_the_time_are_an_outage() -> None:
    quick, slow = breaker(), breaker()
    assert [quick.failed(at) for at in (0.0, 5.0, 10.0)] == [False, False, True]
    assert [slow.failed(at) for at in (0.0, 5.0, 10.1, 15.0)] == [False, False, False, True]


def test_while_open_it_says_truly_how_long_it_refuses_and_then_lets_one_through_in_a_cool_down() -> None:
    one = breaker()
    one.open(100.0)
    assert (one.left_s(100.0), one.left_s(103.0), one.left_s(105.0)) == (5.0, 2.0, 0.0)
    one.begin_trial(106.0)
    assert one.left_s(106.5) == 4.5
    assert one.left_s(111.0) == 0.0  # nothing was heard of the trial
    assert one.failed(112.0)
    assert one.left_s(112.0) == 5.0


def test_a_breaker_that_is_not_open_refuses_nobody() -> None:
    one = breaker()
    one.failed(1.0)
    one.begin_trial(1.0)
    assert one.left_s(1.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 8.0), st.sampled_from(("ask", "fail", "succeed"))), max_size=60))
def test_any_history_opens_it_only_for_a_run_of_failures_and_lets_one_through_in_a_cool_down(
    history: list[tuple[float, str]],
) -> None:
    now, one = 0.0, breaker()
    failed: list[float] = []  # in a row
    let_through: list[float] = []  # while it was open
    opened_s: float | None = None
    for passed_s, event in history:
        now += passed_s
        if event == "succeed":
            one, failed, let_through, opened_s = breaker(), [], [], None  # its owner drops it
        elif event == "fail":
            failed.append(now)
            is_outage = len(failed) >= FAILURES and now - failed[-FAILURES] <= WITHIN_S
            assert one.failed(now) == (is_outage or opened_s is not None)
            if is_outage and opened_s is None:
                one.open(now)
                opened_s = now
        elif opened_s is None:
            assert one.left_s(now) == 0.0
        else:
            last = max([opened_s, *let_through, *(at for at in failed if at >= opened_s)])
            assert abs(one.left_s(now) - max(0.0, last + COOL_DOWN_S - now)) < 1e-6
            if one.left_s(now) == 0.0:
                assert not let_through or now - let_through[-1] >= COOL_DOWN_S - 1e-6
                one.begin_trial(now)
                let_through.append(now)
        assert one.is_open == (opened_s is not None)
