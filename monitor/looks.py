"""Looks at windows: which lengths, how often, and one look cut into slices so that no step of the monitor is long.

Why: a model of a thousand columns takes a quarter of a second to look at, and the controller's step has milliseconds.
Invariants: every slice of a look compares the same window, taken once; the looks made in a month are known beforehand,
as the false-alarm budget is divided by them. Pure but for the windows that are handed in. Called by `monitor/live.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.counts import BinSet, Counts
from monitor.drift import MONTH_S, Measurement, measure
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.windows import Window

Floats = NDArray[np.float64]

WINDOWS: Mapping[str, int] = {"5m": 300, "1h": 3600, "1d": 86_400, "7d": 7 * 86_400}
# A window moves little in a twentieth of its length.
LOOK_EVERY_S: Mapping[str, int] = {"5m": 15, "1h": 180, "1d": 3600, "7d": 6 * 3600}
SLICE_COLUMNS = 48

LOOKS_PER_MONTH = sum(MONTH_S / pause_s for pause_s in LOOK_EVERY_S.values())


class Slices:
    """A profile in parts of a few columns each; made once for a profile, as bins are compared by identity first."""

    def __init__(self, profile: ReferenceProfile) -> None:
        self.profile = profile
        self.parts = [
            *((_part(profile, profile.inputs[at : at + SLICE_COLUMNS], ()), at, 0) for at in _starts(profile.inputs)),
            *((_part(profile, (), profile.outputs[at : at + SLICE_COLUMNS]), 0, at) for at in _starts(profile.outputs)),
        ]

    def measure(
        self, part: int, window: Window, name: str, level: float, live_deffs: tuple[Floats, Floats] | None = None
    ) -> list[Measurement]:
        """Every measurement of one part's columns. live_deffs: of all columns, as `drift.measure` takes them."""
        profile, inputs_at, outputs_at = self.parts[part]
        inputs = columns_of(window.inputs, inputs_at, profile.input_bins())
        outputs = columns_of(window.outputs, outputs_at, profile.output_bins())
        if live_deffs is not None:
            of_inputs, of_outputs = live_deffs
            live_deffs = (
                of_inputs[inputs_at : inputs_at + len(profile.inputs)],
                of_outputs[outputs_at : outputs_at + len(profile.outputs)],
            )
        return measure(profile, inputs, outputs, window=name, level=level, live_deffs=live_deffs)


class Look:
    """One look at one window of one version, a part at a time."""

    def __init__(
        self,
        slices: Slices,
        window: Window,
        name: str,
        level: float,
        live_deffs: tuple[Floats, Floats] | None = None,
    ) -> None:
        self.window, self.name = window, name
        self.found: list[Measurement] = []
        self._slices, self._level, self._live_deffs, self._done = slices, level, live_deffs, 0

    @property
    def is_done(self) -> bool:
        """Whether every part is measured."""
        return self._done == len(self._slices.parts)

    def go_on(self) -> None:
        """Measure the next part: some milliseconds."""
        self.found += self._slices.measure(self._done, self.window, self.name, self._level, self._live_deffs)
        self._done += 1

    def finish(self) -> list[Measurement]:
        """Measure what is left, for an answer that is waited for. Idempotent."""
        while not self.is_done:
            self.go_on()
        return self.found


def reach_s(profile: ReferenceProfile, seconds: int, wall_s: int) -> int:
    """How far back a window of so many seconds looks: not beyond the first row of the profile that judges it.

    A profile of lately is made because what came before is no measure any more; its bins may be those of before.
    """
    since_s = profile.since_s
    return seconds if since_s is None or since_s >= wall_s else min(seconds, wall_s - int(since_s))


def columns_of(counts: Counts, start: int, bins: BinSet) -> Counts:
    """The counts of some columns, the first at `start`: views, not copies."""
    stop = start + len(bins.columns)
    arrays = {field.name: getattr(counts, field.name) for field in fields(Counts)}
    cut: dict[str, Any] = {name: array[start:stop] for name, array in arrays.items() if isinstance(array, np.ndarray)}
    return replace(counts, **{**cut, "bins": bins, "counts": cut["counts"][:, : bins.width]})


def _starts(columns: Sequence[ColumnProfile]) -> range:
    return range(0, len(columns), SLICE_COLUMNS)


def _part(
    profile: ReferenceProfile, inputs: Sequence[ColumnProfile], outputs: Sequence[ColumnProfile]
) -> ReferenceProfile:
    part = replace(profile, inputs=tuple(inputs), outputs=tuple(outputs))
    vars(part)["digest"] = profile.digest  # measurements name the whole profile
    return part
