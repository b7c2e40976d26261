"""Which arm answers: a keyed hash against a bound. Pure, so that an assignment can be explained later.

With one salt per rollout, cohorts are nested while the weight grows (a user never flips back), and fresh between
rollouts (the same users are not always the guinea pigs).
"""

from __future__ import annotations

from hashlib import blake2b


def canary_bound(weight: float) -> int:
    """The number below which a key's hash belongs to the canary: floor(weight * 2**64).

    >>> canary_bound(0.5) == 2**63
    True
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"a weight lies in [0, 1], got {weight}")
    return int(weight * 2**64)


def is_canary(key: bytes, salt: bytes, bound: int) -> bool:
    """Whether this routing key belongs to the canary.

    Source: contract, "Split"; blake2b keyed with the rollout's salt, eight bytes, little endian.

    >>> is_canary(b"user-7", bytes(16), canary_bound(1.0)), is_canary(b"user-7", bytes(16), canary_bound(0.0))
    (True, False)
    """
    return int.from_bytes(blake2b(key, key=salt, digest_size=8).digest(), "little") < bound
