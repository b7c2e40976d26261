"""Who leaves memory: the least recently used of those that may, and no more than are needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.data.residency import Resident, foresee, leavers

A, B, C = (Resident((name, 1), 10, used_s, False) for name, used_s in (("a", 3.0), ("b", 1.0), ("c", 2.0)))
KEPT = Resident(("kept", 1), 1000, 0.0, True)


def test_the_least_recently_used_leave_first_and_only_as_many_as_are_needed() -> None:
    assert leavers([A, B, C, KEPT], 1) == ((B.key,), True)
    assert leavers([A, B, C, KEPT], 11) == ((B.key, C.key), True)
    assert leavers([A, B, C], 0) == ((), True)


def test_what_must_stay_never_leaves_and_it_is_told_when_the_others_are_not_enough() -> None:
    assert leavers([KEPT, A], 11) == ((A.key,), False)
    assert leavers([KEPT], 1) == ((), False)


def test_a_load_is_foreseen_from_the_file_and_then_from_what_it_took() -> None:
    assert foresee(0, None).kept_bytes == 1 << 20  # an empty session is not free
    first, again = foresee(100 << 20, None), foresee(100 << 20, 90 << 20)
    assert first.kept_bytes > again.kept_bytes == 90 << 20
    assert again.peak_bytes == 290 << 20


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 100), st.booleans()), max_size=30),
    st.integers(0, 1000),
)
def test_nobody_leaves_in_vain(given: list[tuple[int, float, bool]], wanted: int) -> None:
    residents = [Resident((f"m{i}", 1), size, used, stay) for i, (size, used, stay) in enumerate(given)]
    by_key = {one.key: one for one in residents}
    leaving, is_enough = leavers(residents, wanted)
    left = [by_key[key] for key in leaving]
    assert not any(one.must_stay for one in left)
    assert is_enough == (sum(one.size_bytes for one in left) >= wanted)
    if left and is_enough:
        assert sum(one.size_bytes for one in left[:-1]) < wanted
    stayed = [one.used_s for one in residents if one.key not in leaving and not one.must_stay]
    assert all(one.used_s <= used for one in left for used in stayed)
