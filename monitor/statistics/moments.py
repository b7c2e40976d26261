"""How far mean and standard deviation moved, with the standard error of that. For people to read, not to judge by:

one wild value moves both as far as one likes, so alarms are left to statistics that count rows. Numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MomentShift:
    """All (...). mean: current minus reference, in standard deviations of the reference; log_sd: the logarithm of
    current over reference standard deviation; each with its standard error. nan where it is undefined."""

    mean: Floats
    mean_error: Floats
    log_sd: Floats
    log_sd_error: Floats


def moment_shift(
    reference: tuple[ArrayLike, ArrayLike, ArrayLike],
    current: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    deff: ArrayLike = 1.0,
    kurtosis: ArrayLike = 3.0,
) -> MomentShift:
    """The shift between two samples, each told as (mean, standard deviation over its rows, rows), all (...).

    The mean's error is Welch's (1947), the other's that of a distribution with this kurtosis (3: the normal one).

    >>> shift = moment_shift((0.0, 1.0, 10_000), (0.5, 2.0, 100))
    >>> round(float(shift.mean), 2), round(float(shift.mean_error), 2), round(float(shift.log_sd), 2)
    (0.5, 0.2, 0.69)
    """
    mean_r, sd_r, m = (np.asarray(part, np.float64) for part in reference)
    mean_c, sd_c, n = (np.asarray(part, np.float64) for part in current)
    d = np.asarray(deff, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        both = (n > 1) & (m > 1)
        unit = np.where(both & (sd_r > 0), sd_r * np.sqrt(m / (m - 1.0)), np.nan)
        error = np.sqrt(d * (np.square(sd_c) / (n - 1.0) + np.square(sd_r) / (m - 1.0)))
        log_sd = np.where(both & (sd_r > 0) & (sd_c > 0), np.log(sd_c / sd_r), np.nan)
        spread = np.sqrt(d * np.maximum(np.asarray(kurtosis) - 1.0, 0.0) / 4.0 * (1.0 / n + 1.0 / m))
    return MomentShift(
        mean=np.asarray((mean_c - mean_r) / unit, np.float64),
        mean_error=np.asarray(error / unit, np.float64),
        log_sd=np.asarray(log_sd, np.float64),
        log_sd_error=np.asarray(np.where(np.isnan(log_sd), np.nan, spread), np.float64),
    )
