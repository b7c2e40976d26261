"""The split: stable, near its weight, monotone in it, fresh between rollouts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data.split import canary_bound, is_canary

keys = st.binary(min_size=1, max_size=40)
salts = st.binary(min_size=16, max_size=16)
weights = st.floats(0.0, 1.0)


@given(keys, salts, weights, weights)
def test_a_key_that_met_the_canary_still_does_when_the_weight_grows(
    key: bytes, salt: bytes, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert is_canary(key, salt, canary_bound(high)) or not is_canary(key, salt, canary_bound(low))


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.5, 0.9])
def test_the_share_of_keys_lies_in_its_binomial_band(weight: float) -> None:
    n, bound = 20_000, canary_bound(weight)
    hits = sum(is_canary(b"user-%d" % i, b"salt" * 4, bound) for i in range(n))
    assert abs(hits - n * weight) < 5 * math.sqrt(n * weight * (1 - weight))


def test_another_salt_is_another_cohort() -> None:
    bound = canary_bound(0.5)
    same = sum(is_canary(b"u%d" % i, b"a" * 16, bound) == is_canary(b"u%d" % i, b"b" * 16, bound) for i in range(4000))
    assert abs(same - 2000) < 5 * math.sqrt(1000)


def test_weights_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        canary_bound(1.5)
