"""What is known of a running rollout, put together for the judge: pages' evidence, the monitor's counts, their ages.

Invariant: nothing is judged here, and every count is cumulative since the rollout began, so a new controller gives the
judge what the old one gave. Called by the controller, once a tick for each running rollout.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from gateway.control import gather
from gateway.control.fleet import ModelState
from gateway.control.watch import Watched
from gateway.data.page_reader import PageSnapshot
from monitor.facts import RolloutFacts
from monitor.rollout import RolloutRecord


def facts_of(
    state: ModelState,
    record: RolloutRecord,
    pages: Sequence[PageSnapshot],
    *,
    seen: Watched | None,
    has_profile: bool,
    measuring: bool,
    now_s: float,
) -> RolloutFacts:
    """The facts of this moment; also notes in `state` when an arm last answered. seen: None before it is known."""
    is_watched, seen = seen is not None, seen or Watched()
    threshold = state.window.threshold_us if state.window is not None else None
    shadow = max(0, gather.shadow_rows(pages, state.name, record.candidate) - state.baseline.shadow_rows)
    answers = gather.arm_answers(pages, state.name, record.champion, record.candidate)
    _note_answers(state, sum(answers), now_s)
    champion_answers, canary_answers = _in_rollout(state, answers)
    veto = next((page for page in pages if page.vetoes.get(state.name) == record.id), None)
    return RolloutFacts(
        segments=state.gathered.segments(),
        champion_answers=champion_answers,
        canary_answers=canary_answers,
        shadow_requests=shadow,
        shadow_errors=seen.shadow_errors,
        shadow_errors_requests=seen.shadow_errors_requests,
        pair_rows=seen.pair_rows,
        pair_disagreements=seen.pair_disagreements,
        pair_requests=seen.pair_requests,
        pair_disagreed=seen.pair_disagreed,
        pair_age_s=seen.pair_age_s,
        measured_disagreement=record.measured_disagreement,
        measuring=measuring,
        labels=seen.labels,
        outputs=seen.outputs,
        latency_ready=threshold is not None,
        key_table_full=state.gathered.key_table_full,
        has_profile=has_profile,
        watched=is_watched or not record.is_serving,
        traffic_age_s=None if state.answered_s is None else now_s - state.answered_s,
        veto=None if veto is None else _why(veto, record),
    )


def _why(page: PageSnapshot, record: RolloutRecord) -> str:
    number = page.ended_by.get(record.model)
    if number is None:
        return f"worker {page.slot} saw its canary fail 20 times in a row"
    return f"worker {page.slot} was ended by {signal.Signals(number).name} while it ran version {record.candidate}"


def _note_answers(state: ModelState, answers: int, now_s: float) -> None:
    if answers != state.answers:
        if state.answers >= 0:
            state.answered_s = now_s
        state.answers = answers


def _in_rollout(state: ModelState, answers: tuple[int, int]) -> tuple[int | None, int | None]:
    """The arms' answers since the rollout began, new keys or not; at least what counted as evidence."""
    began = state.baseline.answers
    if began is None:
        return None, None
    champion, canary = (max(now - then, 0) for now, then in zip(answers, began, strict=True))
    return max(champion, state.gathered.requests(False)), max(canary, state.gathered.requests(True))
