"""A mixture Shiryaev-Roberts e-detector over events and alternatives: the arithmetic of fast detection, in arrays.

Source: Shin, Ramdas and Rinaldo, "E-detectors" (2024), definition 2.2 and section 4: M ← (1 + M)·e, where e has mean at
most 1 as long as nothing drifted, so M grows by at most 1 an evaluation in the mean, and reaches c once in c
evaluations at most. Invariants: each component keeps its own M and they are averaged *after* the recursion (a mixture
before it never sees a slow change); M is a pure function of the counts that came, in their order, and never overflows.
Called by `monitor/detectors.py`. Detectors do not merge: counts do, before they come here.

Two ways to bet that an event's share p left [low, high]:
*count*: e is the likelihood ratio of a binomial count, alternative against limit, to the power 1/deff. Right for
independent rows, and close where rows depend over much less than an evaluation.
*share*: the share f of a whole tile is one observation, e = 1 + λ(f - high) or 1 + λ(low - f). Right under any
dependence inside a tile (Waudby-Smith and Ramdas 2023), and dearer.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import asin, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitor.events import Events
from monitor.pauses import pause

Mode = Literal["count", "share"]
Floats = NDArray[np.float64]

STEPS_H = (0.04, 0.08, 0.16, 0.32, 0.64)  # alternatives, in Cohen's h beyond the limit
BETS = (0.03, 0.1, 0.3, 0.6, 0.9)  # of the largest bet that cannot lose all
LEAST_SHARE = 1e-6  # limits and alternatives stay this far from 0 and 1
_MOST = 1e300  # M stops here: a later reset or alarm is far below
_MOST_LOG, _LEAST_LOG = 650.0, -700.0  # below the latter `exp` underflows, which takes it nine times as long


class Mixture:
    """The components of some events: E events x J bets, half of them upwards, half downwards.

    State, float64: `m` (E, J); (E,) each: `rise`, the logarithm of the evidence since it last was nothing (Page's sum
    of the bets' mean gains, which finds the onset where M alone creeps up without one); `happened`, `of`, what was
    counted since then; `since_rows`, `since_s`, when that was; `tile_happened`, `tile_of`, the open tile.
    About 350 bytes an event, J being 10.
    """

    def __init__(self, events: Events, is_share: NDArray[np.bool_], tile_rows: Floats) -> None:
        """is_share (E,): which events are bet on by shares of tiles; tile_rows (E,): rows that close a tile."""
        self.events, self.is_share = events, is_share
        e = len(events)
        self.starts = np.flatnonzero(np.diff(events.column, prepend=-1))  # first event of each feature
        self.columns = events.column[self.starts]
        parts = zip(_likelihoods(events), _bets(events), strict=True)
        # Alternatives lie side by side: they are few, and numpy goes along what is long.
        self._hit, self._miss, valid = (
            np.asfortranarray(np.where(is_share[:, None], bet, ratio)) for ratio, bet in parts
        )
        per_feature = np.add.reduceat(valid.sum(axis=1), self.starts) if e else np.zeros(0)
        shares = np.maximum(np.repeat(per_feature, np.diff(self.starts, append=e)), 1.0)
        self._weight = np.asfortranarray(valid / shares[:, None])
        self._event_weight = np.maximum(self._weight.sum(axis=1), 1e-300)
        self._tile_rows = np.maximum(tile_rows, 1.0)
        self._is_plain = bool((self._tile_rows <= 1.0).all()) and not is_share.any()
        self.m = np.zeros(valid.shape, order="F")
        self.happened, self.of, self.rise = np.zeros(e), np.zeros(e), np.zeros(e)
        self.since_rows, self.since_s = np.zeros(e), np.zeros(e)
        self.tile_happened, self.tile_of = np.zeros(e), np.zeros(e)
        self._event_m = np.zeros(e)

    def arrays(self) -> dict[str, Floats]:
        """The state, by name. The arrays themselves, not copies."""
        names = ("m", "rise", "happened", "of", "since_rows", "since_s", "tile_happened", "tile_of")
        return {name: getattr(self, name) for name in names}

    def restore(self, arrays: Mapping[str, Floats]) -> None:
        """Take the state that `arrays` gave; `rise` may be absent, as in states of release 0.1.

        Raises KeyError or ValueError for another shape.
        """
        for name, mine in self.arrays().items():
            if name in arrays or name != "rise":
                mine[:] = arrays[name].reshape(mine.shape)
        self._weigh()
        if "rise" not in arrays:
            self.rise[:] = np.log(np.maximum(self._event_m / self._event_weight, 1.0))

    def update(self, happened: Floats, of: Floats, rows: float, now_s: float, strength: Floats | None = None) -> None:
        """Take one evaluation: `happened` of `of` rows per event, (E,) each; `rows` were seen before it in all.

        `strength` (E,), at most 1, weakens a count's evidence where rows proved more dependent than the reference said.
        """
        if not len(self.events):
            return
        self._count(happened, of, rows, now_s)
        if self._is_plain and (of > 0.0).all():
            self._update_plain(happened, of - happened, strength)
            bet = np.ones(len(self.events), bool)
        else:
            bet = self._update_tiles(happened, of, strength)
        before = self._event_m + self._event_weight
        self._weigh()
        gain = np.log(np.maximum(self._event_m, 1e-300)) - np.log(before)
        self.rise = np.where(bet, np.maximum(self.rise + gain, 0.0), self.rise)

    def _update_plain(self, happened: Floats, missed: Floats, strength: Floats | None) -> None:
        """Every event is bet on: one alternative after the other, whose arrays stay in a core's own cache."""
        log, of_misses = np.empty((2, len(happened)))
        for m, hit, miss in zip(self.m.T, self._hit.T, self._miss.T, strict=True):
            np.multiply(happened, hit, out=log)
            np.multiply(missed, miss, out=of_misses)
            log += of_misses
            if strength is not None:
                log *= strength
            np.exp(np.clip(log, _LEAST_LOG, _MOST_LOG, out=log), out=log)
            m += 1.0
            m *= log
            np.minimum(m, _MOST, out=m)
            pause()

    def _update_tiles(self, happened: Floats, of: Floats, strength: Floats | None) -> NDArray[np.bool_]:
        """(E,): the events that were bet on, as their tile was full."""
        self.tile_happened += happened
        self.tile_of += of
        closed = (self.tile_of >= self._tile_rows) & (self.tile_of > 0.0)
        at = np.flatnonzero(closed & ~self.is_share)
        k, n = self.tile_happened[at, None], self.tile_of[at, None]
        log = k * self._hit[at] + (n - k) * self._miss[at]
        if strength is not None:
            log *= strength[at, None]
        self.m[at] = np.minimum((1.0 + self.m[at]) * np.exp(np.clip(log, _LEAST_LOG, _MOST_LOG)), _MOST)
        at = np.flatnonzero(closed & self.is_share)
        gain = self._hit[at] * (self.tile_happened[at] / self.tile_of[at])[:, None] + self._miss[at]
        self.m[at] = np.minimum((1.0 + self.m[at]) * gain, _MOST)
        self.tile_happened[closed] = 0.0
        self.tile_of[closed] = 0.0
        return closed

    def _count(self, happened: Floats, of: Floats, rows: float, now_s: float) -> None:
        """Begin anew where the evidence is nothing, then count."""
        quiet = (self.rise <= 0.0) & (self.tile_of <= 0.0)
        self.happened[quiet] = 0.0
        self.of[quiet] = 0.0
        self.since_rows[quiet] = rows
        self.since_s[quiet] = now_s
        self.happened += happened
        self.of += of

    def _weigh(self) -> None:
        self._event_m = np.einsum("ej,ej->e", self.m, self._weight)

    def evaluations(self, rows: float, updates: float) -> float:
        """How often features are evaluated in so many rows and updates, all features together."""
        tiles = self._tile_rows[self.starts]
        return float(np.where(tiles > 1.0, np.minimum(rows / tiles, updates), updates).sum())

    def log_evidence(self) -> Floats:
        """ln M of each feature in `columns`."""
        if not len(self.events):
            return np.zeros(0)
        return np.log(np.maximum(np.add.reduceat(self._event_m, self.starts), 1e-300))

    def worst(self, at: int) -> int:
        """The event that adds most to the evidence of the at-th feature."""
        start = int(self.starts[at])
        stop = int(self.starts[at + 1]) if at + 1 < len(self.starts) else len(self.events)
        return start + int(np.argmax(self._event_m[start:stop]))

    def direction(self, event: int) -> int:
        """1 if the event came more often, -1 if less often."""
        each = self.m[event] * self._weight[event]
        half = len(each) // 2
        return 1 if each[:half].sum() >= each[half:].sum() else -1

    def reset(self, at: int) -> None:
        """Forget the evidence of the at-th feature: after its alarm it is collected anew."""
        start = int(self.starts[at])
        stop = int(self.starts[at + 1]) if at + 1 < len(self.starts) else len(self.events)
        self.m[start:stop] = 0.0
        self._event_m[start:stop] = 0.0
        self.rise[start:stop] = 0.0


def angle_of(share: Floats) -> Floats:
    """asin(√share): the scale in which binomial noise is alike everywhere; Cohen's h is twice a difference of it."""
    return np.asarray(np.arcsin(np.sqrt(np.clip(share, 0.0, 1.0))), np.float64)


def angle(share: float) -> float:
    """`angle_of` one share, without numpy's fixed costs."""
    return asin(sqrt(min(max(share, 0.0), 1.0)))


def share_at(angle: Floats) -> Floats:
    """The share at an angle, held inside of [LEAST_SHARE, 1 - LEAST_SHARE]."""
    held = np.clip(angle, 0.0, np.pi / 2.0)
    return np.asarray(np.clip(np.square(np.sin(held)), LEAST_SHARE, 1.0 - LEAST_SHARE), np.float64)


def _likelihoods(events: Events) -> tuple[Floats, Floats, Floats]:
    """(E, J) each: the log likelihood ratio of a hit and of a miss, and 1 where the component exists, else 0."""
    limit = np.clip(np.stack([events.high, events.low], axis=1), LEAST_SHARE, 1.0 - LEAST_SHARE)  # (E, 2)
    beyond = angle_of(limit)[:, :, None] + np.array([0.5, -0.5])[:, None] * np.array(STEPS_H)  # (E, 2, 5)
    other = share_at(beyond)
    valid = np.empty(other.shape, bool)
    valid[:, 0] = other[:, 0] > limit[:, :1] * (1.0 + 1e-9)
    valid[:, 1] = other[:, 1] < limit[:, 1:] * (1.0 - 1e-9)
    valid[:, :, 1:] &= np.abs(np.diff(other, axis=2)) > 1e-12  # held at the end of the scale: said once
    e, j = len(events), 2 * len(STEPS_H)
    hit = np.where(valid, np.log(other / limit[:, :, None]), 0.0) / events.deff[:, None, None]
    miss = np.where(valid, np.log1p(-other) - np.log1p(-limit[:, :, None]), 0.0) / events.deff[:, None, None]
    return hit.reshape(e, j), miss.reshape(e, j), valid.reshape(e, j).astype(np.float64)


def _bets(events: Events) -> tuple[Floats, Floats, Floats]:
    """(E, J) each: a and b of the gain a·f + b of a tile with share f, and 1 where the component exists, else 0."""
    high = np.clip(events.high, LEAST_SHARE, 1.0 - LEAST_SHARE)[:, None]
    low = np.clip(events.low, LEAST_SHARE, 1.0 - LEAST_SHARE)[:, None]
    part = np.array(BETS)
    up, down = part / high, part / (1.0 - low)
    slope = np.concatenate([up, -down], axis=1)
    base = np.concatenate([1.0 - up * high, 1.0 + down * low], axis=1)
    valid = np.concatenate([np.repeat(high < 1.0 - 2e-6, len(part), 1), np.repeat(low > 2e-6, len(part), 1)], axis=1)
    return np.where(valid, slope, 0.0), np.where(valid, base, 1.0), valid.astype(np.float64)
