"""Bodies that are compressed on the wire: gzip and deflate, both ways, for every protocol over HTTP.

Invariant: a body is inflated in steps, and never past `limits.body_bytes`, nor, above 1 MiB, past
`limits.decompression_ratio` times what was sent; memory is bounded before it is taken. Answers are compressed for
callers that ask for it, from `limits.compress_from_bytes` on: below that it costs more time than any network saves.
Long work happens in a thread (zlib gives up the interpreter's lock), so that other requests do not wait for it.
Called by `predict.infer` when a request has the header in question.
"""

from __future__ import annotations

import asyncio
import zlib

from gateway.data.codecs.call import Headers
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, PayloadTooLarge, UnsupportedMedia

READ = "gzip, deflate"
Told = tuple[tuple[bytes, bytes], ...]
_STEP = 1 << 20  # bytes inflated at a time, and what a small body may always become
_IN_THREAD_FROM = (
    2048  # bytes to inflate from or to deflate: 0.2 ms of work (14 MB/s measured), as a thread's turn costs
)
_LEVEL = 1  # the quickest: numbers in text shrink to a half at any level
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MOST_MEMBERS = 64


async def decoded(body: bytes, headers: Headers, limits: LimitSettings) -> bytes:
    """The body as it was before compression. Raises UnsupportedMedia, MalformedRequest or PayloadTooLarge."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        told = encoding[:40].decode("latin-1")
        raise UnsupportedMedia(f"content encoding {told!r} is not read here; send {READ}", accept_encoding=READ)
    inflate = _gunzip if encoding.endswith(b"gzip") else _inflate
    if len(body) < _IN_THREAD_FROM:
        return inflate(body, limits)
    return await asyncio.to_thread(inflate, body, limits)


async def encoded(body: bytes, told: Told, accept: bytes, limits: LimitSettings) -> tuple[bytes, Told]:
    """An answer's body and headers as its caller accepts them."""
    encoding = wanted(accept) if limits.compress_from_bytes else None
    if encoding is None:
        return body, told
    compress = _gzip if encoding == b"gzip" else _deflate
    small = compress(body) if len(body) < _IN_THREAD_FROM else await asyncio.to_thread(compress, body)
    if len(small) >= len(body):
        return body, told
    return small, (*told, (b"content-encoding", encoding), (b"vary", b"accept-encoding"))


def wanted(accept: bytes) -> bytes | None:
    """Which encoding an Accept-Encoding header prefers of those that we write; None: none.

    >>> wanted(b"deflate;q=0.5, gzip;q=1.0, br"), wanted(b"*"), wanted(b"gzip;q=0, identity")
    (b'gzip', b'gzip', None)
    """
    weights: dict[bytes, float] = {}
    for item in accept.lower().split(b",", 20)[:20]:
        name, _, parameter = item.partition(b";")
        weight = 1.0
        key, _, number = parameter.partition(b"=")
        if key.strip() == b"q":
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
        weights[name.strip()] = weight
    rest = weights.get(b"*", 0.0)
    ours = {b"gzip": weights.get(b"gzip", weights.get(b"x-gzip", rest)), b"deflate": weights.get(b"deflate", rest)}
    best = max(ours, key=lambda name: ours[name])  # gzip when they are equal
    return best if ours[best] > 0 and ours[best] >= weights.get(b"identity", 0.0) else None


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, wbits=_GZIP)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, wbits=_ZLIB)


class _Room:
    """How much may still come out."""

    def __init__(self, sent: int, limits: LimitSettings) -> None:
        self._limits = limits
        self._by_ratio = max(_STEP, sent * limits.decompression_ratio)
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        """Keep a piece of at most `_STEP` bytes. Raises PayloadTooLarge."""
        self.size += len(part)
        if self.size > self._limits.body_bytes:
            most = self._limits.body_bytes
            raise PayloadTooLarge(f"the body has more than {most} bytes when inflated, the limit", limit_bytes=most)
        if self.size > self._by_ratio:
            ratio = self._limits.decompression_ratio
            raise PayloadTooLarge(f"the body becomes more than {ratio} times as large, the limit", limit_ratio=ratio)
        self.parts.append(part)


def _gunzip(body: bytes, limits: LimitSettings) -> bytes:
    room = _Room(len(body), limits)
    for _ in range(_MOST_MEMBERS):
        body = _stream(body, _GZIP, room)
        if not body:
            return b"".join(room.parts)
    raise MalformedRequest(f"the body has more than {_MOST_MEMBERS} gzip members")


def _inflate(body: bytes, limits: LimitSettings) -> bytes:
    """`deflate` is zlib's format by the standard; some callers send the bare stream."""
    is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    room = _Room(len(body), limits)
    if _stream(body, _ZLIB if is_zlib else _RAW, room):
        raise MalformedRequest("there is something after the end of the compressed body")
    return b"".join(room.parts)


def _stream(body: bytes, window: int, room: _Room) -> bytes:
    """Inflate one stream into the room → what follows it."""
    inflater = zlib.decompressobj(window)
    waiting = body
    try:
        while not inflater.eof:
            part = inflater.decompress(waiting, _STEP)
            waiting = inflater.unconsumed_tail
            if not part and not waiting and not inflater.eof:
                raise MalformedRequest("the compressed body ends too early")
            room.add(part)
    except zlib.error as error:
        raise MalformedRequest(f"the body cannot be inflated: {error}") from None
    return inflater.unused_data
