"""How long ago something last happened that is stored with its wall time.

Why: a source that is silent for long is lost, and a rollout holds or steps down; the wall clock may jump by hours, and
then no source is lost, nor one that is lost found again. Invariant: once a stamp was seen here its age grows with
elapsed time alone. Only what another process stored is as old as the wall clock says. Called by `monitoring.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.clock import Clock

Source = tuple[str, str]  # model, what happened


@dataclass(frozen=True, slots=True)
class _Seen:
    rollout_id: str
    stamp_ns: int
    since_s: float


class Ages:
    """The last stamp of each source, and since when it is the last one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[Source, _Seen] = {}

    def age_s(self, source: Source, rollout_id: str, stamp_ns: int) -> float | None:
        """Seconds since this stamp was made; None for 0, which is never."""
        if not stamp_ns:
            return None
        now_s, seen = self._clock.now_s(), self._seen.get(source)
        if seen is None or seen.rollout_id != rollout_id:
            age_s = max(0.0, (self._clock.wall_ns() - stamp_ns) / 1e9)
            seen = self._seen[source] = _Seen(rollout_id, stamp_ns, now_s - age_s)
        elif seen.stamp_ns != stamp_ns:
            seen = self._seen[source] = _Seen(rollout_id, stamp_ns, now_s)
        return now_s - seen.since_s

    def forget(self, model: str) -> None:
        """Its rollout has ended."""
        self._seen = {source: seen for source, seen in self._seen.items() if source[0] != model}
