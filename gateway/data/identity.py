"""Request ids: the caller's own when it can be shown safely, else a new UUIDv7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(given: bytes | None) -> str:
    """The id of a request: `x-request-id` if it is 1 to 128 visible ASCII characters, else a new one."""
    if given is not None and _VISIBLE.fullmatch(given):
        return given.decode("ascii")
    return uuid7(time.time_ns, random.getrandbits)


def uuid7(wall_ns: Callable[[], int], random_bits: Callable[[int], int]) -> str:
    """48 bits of milliseconds, then 74 random bits.

    >>> uuid7(lambda: 0x017F22E279B0 * 1_000_000, lambda _: 0)
    '017f22e2-79b0-7000-8000-000000000000'
    """
    noise = random_bits(74)
    value = (wall_ns() // 1_000_000) << 80 | 0x7 << 76 | (noise >> 62) << 64 | 0x2 << 62 | noise & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
