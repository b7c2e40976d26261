"""Which features are on the list: e-d-BH over all features of a look. Pure.

Why: a page needs one feature beyond the whole budget's threshold c; a list may name a feature sooner when many moved
together. Source: Dandapanthula and Ramdas, "Multiple testing in multi-stream sequential change detection" (2025): the
k features with the largest M are listed for the largest k whose k-th M is at least c/k. What that controls, under any
dependence: the expected share of false names on the list, over the mean time to it (error over patience); no procedure
that will some day alarm can bound the share itself at every moment. Called by `monitor/detectors.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def e_d_bh(log_evidence: NDArray[np.float64], log_threshold: float) -> NDArray[np.bool_]:
    """Which of the features (F,) are listed, from ln M of each and ln c.

    >>> e_d_bh(np.log([55.0, 60.0, 1.0]), float(np.log(100.0))).tolist()
    [True, True, False]
    """
    order = np.argsort(-log_evidence, kind="stable")
    enough = log_evidence[order] >= log_threshold - np.log(np.arange(1, len(order) + 1))
    listed = np.zeros(len(order), bool)
    if enough.any():
        listed[order[: int(np.flatnonzero(enough)[-1]) + 1]] = True
    return listed
