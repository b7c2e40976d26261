"""Drift between features, which none of them shows alone: random-Fourier-feature MMD and PCA reconstruction error.

Why: a correlation that turns around moves no histogram. Both are computed on sampled rows (some percent are enough) in
blocks, and their limits come from the reference rows themselves. Invariants: what is compared is a mean over a block of
rows, so it is mergeable and bounded; a matrix is drawn once from the generator that is handed in and stored; missing
values are filled by the reference's mean (their share is quality's business). Called on sampled rows by the controller
and by offline comparison.

Calibration: a statistic of a block of rows is compared with that of the *held-out* half of the reference, in blocks of
the same length and in its order (so dependence within a block is in it). A block's p-value is its rank among those; no
distribution is assumed. p-values are calibrated into e-values, e = 1 / (2·√p), and an e-detector (M ← (1 + M)·e) adds
up over blocks: a threshold c is reached once in c blocks at most, for exchangeable blocks, up to the resolution of R
reference blocks (p is never below 1 / (R + 1), rounded up, so it errs towards silence).
Sources: Rahimi and Recht (2007) for the features; Gretton et al. (2012) for MMD; Vovk and Wang (2021) for calibrators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.packing import pack, unpack
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

Floats = NDArray[np.float64]
FEATURES = 128  # random Fourier features
EXPLAINED = 0.9  # of the variance that the kept principal components explain
BLOCK_ROWS = 250
MOST_COLUMNS = 512  # of a side; wider ones keep their first
_MOST_LOG = 690.0


@dataclass(frozen=True)
class MultivariateProfile:
    """What is known of a reference's rows together. d columns, D random features, k kept components, R blocks.

    centre, scale (d,); frequencies (d, D), phases (D,); fourier_mean (D,), of the reference; components (d, k);
    null_mmd, null_error (R,), rising: the statistics of held-out reference blocks of `block_rows` rows.
    """

    block_rows: int
    centre: Floats
    scale: Floats
    frequencies: Floats
    phases: Floats
    fourier_mean: Floats
    components: Floats
    error_mean: float
    null_mmd: Floats
    null_error: Floats

    def statistics(self, rows: Floats) -> tuple[float, float]:
        """(mmd², |mean reconstruction error - the reference's|) of a block of rows (n, d)."""
        x = self._standard(rows)
        gap = self._fourier(x).mean(axis=0) - self.fourier_mean
        return float(gap @ gap), abs(float(self._errors(x).mean()) - self.error_mean)

    def p_values(self, rows: Floats) -> tuple[float, float]:
        """The ranks of a block's statistics among the reference's held-out blocks: at least 1 / (R + 1) each."""
        mmd, error = self.statistics(rows)
        r = len(self.null_mmd)
        above = [r - int(np.searchsorted(null, value, "left")) for null, value in
                 ((self.null_mmd, mmd), (self.null_error, error))]  # fmt: skip
        return (above[0] + 1) / (r + 1), (above[1] + 1) / (r + 1)

    def _standard(self, rows: Floats) -> Floats:
        x = (np.asarray(rows, np.float64)[:, : len(self.centre)] - self.centre) / self.scale
        return np.clip(np.nan_to_num(x, nan=0.0, posinf=8.0, neginf=-8.0), -8.0, 8.0)

    def _fourier(self, x: Floats) -> Floats:
        return np.asarray(sqrt(2.0 / len(self.phases)) * np.cos(x @ self.frequencies + self.phases), np.float64)

    def _errors(self, x: Floats) -> Floats:
        return np.asarray(np.square(x).sum(axis=1) - np.square(x @ self.components).sum(axis=1), np.float64)


def fit_multivariate(
    rows: Floats, rng: np.random.Generator, block_rows: int = BLOCK_ROWS, features: int = FEATURES
) -> MultivariateProfile | None:
    """From reference rows (n, d) in their order; None where they are too few (20 held-out blocks) or d < 2.

    The odd blocks are learned from and the even ones held out, so that a slow change of the reference is in both.
    """
    rows = np.asarray(rows, np.float64)[:, :MOST_COLUMNS]
    blocks = len(rows) // block_rows
    if rows.ndim != 2 or rows.shape[1] < 2 or blocks < 40:
        return None
    cut = rows[: blocks * block_rows].reshape(blocks, block_rows, -1)
    learned = cut[1::2].reshape(-1, rows.shape[1])
    finite = np.where(np.isfinite(learned), learned, np.nan)
    seen = np.isfinite(finite).any(axis=0)
    finite[:, ~seen] = 0.0
    centre, scale = np.nanmean(finite, axis=0), np.nanstd(finite, axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    d = rows.shape[1]
    empty = np.zeros(0)
    draft = MultivariateProfile(
        block_rows, centre, scale, np.zeros((d, 1)), empty, empty, np.zeros((d, 0)), 0.0, empty, empty
    )
    x = draft._standard(learned)
    sample = x[:: max(1, len(x) // 500)]
    distances = np.square(sample[:, None, :] - sample[None, :, :]).sum(axis=2) if d <= 64 else None
    width = (
        sqrt(float(np.median(distances[distances > 0])))
        if distances is not None and (distances > 0).any()
        else sqrt(2.0 * d)
    )
    frequencies = rng.normal(size=(d, features)) / width
    phases = rng.uniform(0.0, 2.0 * np.pi, features)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    falling = np.maximum(values[::-1], 0.0)
    kept = int(np.searchsorted(np.cumsum(falling) / max(float(falling.sum()), 1e-300), EXPLAINED)) + 1
    components = vectors[:, ::-1][:, : min(kept, d - 1)]
    made = MultivariateProfile(
        block_rows, centre, scale, frequencies, phases, np.zeros(features), components, 0.0, empty, empty
    )
    mean, error = made._fourier(x).mean(axis=0), float(made._errors(x).mean())
    made = MultivariateProfile(block_rows, centre, scale, frequencies, phases, mean, components, error, empty, empty)
    null = np.sort(np.array([made.statistics(block) for block in cut[::2]]), axis=0)
    return MultivariateProfile(
        block_rows, centre, scale, frequencies, phases, mean, components, error, null[:, 0].copy(), null[:, 1].copy()
    )


class MultivariateDetector:
    """An e-detector over blocks of sampled rows. One thread at a time; keeps one open block."""

    def __init__(self, profile: MultivariateProfile) -> None:
        self.profile = profile
        self.blocks = 0
        self._log_m = np.full(2, -np.inf)  # mmd, reconstruction error
        self._open: list[Floats] = []
        self._waiting = 0

    def update(self, rows: Floats) -> float:
        """Take sampled rows (n, d); returns ln M, the mean of both statistics' M."""
        self._open.append(np.array(rows, np.float64)[:, : len(self.profile.centre)])
        self._waiting += len(rows)
        if self._waiting >= self.profile.block_rows:
            block = np.concatenate(self._open)
            size = self.profile.block_rows
            for start in range(0, len(block) - size + 1, size):
                self._take(block[start : start + size])
            rest = block[len(block) // size * size :]
            self._open, self._waiting = [rest], len(rest)
        return self.log_evidence

    def _take(self, block: Floats) -> None:
        gains = -np.log(2.0) - 0.5 * np.log(np.array(self.profile.p_values(block)))
        self._log_m = np.minimum(np.logaddexp(0.0, self._log_m) + gains, _MOST_LOG)
        self.blocks += 1

    @property
    def log_evidence(self) -> float:
        """ln M: an alarm is due at ln c, after which `reset` begins anew."""
        return float(np.logaddexp(self._log_m[0], self._log_m[1])) - log(2.0)

    def reset(self) -> None:
        """Forget the evidence."""
        self._log_m[:] = -np.inf

    def to_dict(self) -> dict[str, Any]:
        """Its state as a JSON object, stamped; the open block is left out, as rows are not stored."""
        return stamped("detector", {"kind": "multivariate", "blocks": self.blocks, "m": pack(np.exp(self._log_m))})

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood. Raises StateDamaged for anything else."""
        check_stamp("detector", document)
        try:
            if document["kind"] != "multivariate":
                raise ValueError(document["kind"])
            blocks, m = int(document["blocks"]), unpack(document["m"], "<f8", 2)
            if blocks < 0 or not (np.isfinite(m) & (m >= 0.0)).all():
                raise ValueError("evidence below zero")
        except (KeyError, TypeError, ValueError) as error:
            raise StateDamaged(f"a detector's state cannot be taken up: {error!r}") from None
        with np.errstate(divide="ignore"):
            self._log_m = np.log(m)
        self.blocks, self._open, self._waiting = blocks, [], 0
