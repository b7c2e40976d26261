"""What a protocol gives the hot path: a codec reads a body into tensors, and a call that later writes the answer.

A request's way is the same whatever its protocol: `Codec.read` on arrival, one run shared with others, `Call.write`
with its own rows. Plain V2 JSON calls (`joint`) are written many at once instead. Codecs are made once, hold no state,
and run on the event loop. Invariant: a codec raises ServingError for anything a caller can send, and allocates no more
than its limits allow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import maxsize
from typing import TYPE_CHECKING, NamedTuple

from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import UnsupportedMedia

if TYPE_CHECKING:
    from gateway.data.codecs.v2 import Writer

Headers = Mapping[bytes, bytes]  # names in lower case, as ASGI has them


class Answer(NamedTuple):
    """A body that is not plain JSON, with the headers that say so (content-type among them, content-length not)."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Call:
    """What one request asks, beside its tensors. Subclasses are the protocols' answers."""

    __slots__ = ()
    id: str | None = None  # echoed where the protocol echoes one
    joint: bool = False  # plain V2 JSON with all outputs: written with its batch-mates by `Writer`
    is_text: bool = False  # numbers are written out, which is slow
    timeout_us: int | None = None  # the time that the body itself gives, from arrival

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes | Answer:
        """The body of a success, bytes for plain JSON. outputs: this request's own rows, all outputs of the version.

        `writer.servable` names them.
        """
        raise NotImplementedError


Reader = Callable[[bytes, Headers, Servable, LimitSettings], tuple[Sequence[Tensor], Call]]


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write requests: `read` gives the tensors in the order of the servable's slots, and the call.

    A body that is slow to parse whatever the model is parsed by `prepare`, away from the event loop and before the
    request is routed; it gives the codec that reads on from there. Both raise MalformedRequest, TensorMismatch,
    UnsupportedMedia or PayloadTooLarge. Plain JSON is never prepared: how it is read hangs on the model.
    """

    protocol: str  # one of page.PROTOCOLS: the label in metrics
    read: Reader
    prepare: Callable[[bytes, Headers, LimitSettings], Awaitable[Codec]] | None = None
    # A place for a body of so many bytes, where `read` likes it best and takes a view of it; None: it wants bytes.
    room: Callable[[int, Headers], memoryview] | None = None
    # Bodies from this length on take tens of milliseconds and are read by another process (`codec_process.py`), which
    # finds `read` by its name.
    aside_bytes: int = maxsize


@dataclass(frozen=True, slots=True)
class Door:
    """The codecs of one route: `json` for plain JSON, `choose` for whatever else its headers say.

    `choose` raises UnsupportedMedia.
    """

    json: Codec
    choose: Callable[[Headers], Codec]


def media_type(headers: Headers) -> str:
    """The content type without its parameters, in lower case; empty when there is none."""
    return headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower().decode("latin-1")


def quality(parameters: Sequence[str]) -> float:
    """How much an `accept` header likes a form, from the parameters beside its name; 0 for what is no number.

    >>> quality(["charset=utf-8", "q=0.5"]), quality([])
    (0.5, 1.0)
    """
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


# curl's default for -d is a form; Open Inference clients send octets with a plain JSON body.
_JSON_LIKE = frozenset(("application/json", "application/octet-stream", "application/x-www-form-urlencoded", ""))


def only_json(codec: Codec) -> Door:
    """A door that reads JSON and nothing else."""

    def choose(headers: Headers) -> Codec:
        kind = media_type(headers)
        if kind not in _JSON_LIKE:
            raise UnsupportedMedia(f"content type {kind!r} is not read here; send application/json")
        return codec

    return Door(codec, choose)
