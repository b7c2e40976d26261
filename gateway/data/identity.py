"""Request ids: the caller's own when it can be shown safely, else a new UUIDv7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import re
from collections.abc import Callable

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}")
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class RequestIds:
    """Makes request ids; the clock and the randomness are passed in.

    >>> ids = RequestIds(lambda: 0x017F22E279B0 * 1_000_000, lambda bits: 0)
    >>> ids.identify(b"mine"), ids.identify(None)
    (b'mine', b'017f22e2-79b0-7000-8000-000000000000')
    """

    def __init__(self, wall_ns: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._wall_ns = wall_ns
        self._random_bits = random_bits
        self._prefix_ms = -1
        self._prefix = ""

    def identify(self, given: bytes | None) -> bytes:
        """`x-request-id` if it is 1 to 128 visible ASCII characters, else a new UUIDv7: always safe in a header."""
        if given is not None and _VISIBLE.fullmatch(given):
            return given
        now_ms = self._wall_ns() // 1_000_000
        if now_ms != self._prefix_ms:
            text = f"{now_ms:012x}"
            self._prefix_ms, self._prefix = now_ms, f"{text[:8]}-{text[8:12]}-7"
        noise = f"{self._random_bits(76):019x}"
        return f"{self._prefix}{noise[:3]}-{_VARIANT[noise[3]]}{noise[4:7]}-{noise[7:]}".encode()
