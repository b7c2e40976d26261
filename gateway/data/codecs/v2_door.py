"""The forms of the V2 infer route: JSON, JSON with binary data, MessagePack and Arrow, by `content-type` and `accept`.

An answer has the form that `accept` asks for, and the request's own where it asks for none that is written here: a
client that says `text/html` is answered as if it had said nothing. Plain JSON in and out never comes through here but
for its look-up of the `accept` header (`Predict.infer`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial

from gateway.data.codecs import arrow, arrow_library, call, msgpack, v2
from gateway.data.codecs.arrow_answer import FILE, STREAM, ArrowCall
from gateway.data.codecs.call import Codec, Door, Headers, Reader, media_type, quality
from gateway.data.codecs.v2_calls import Call
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import UnsupportedMedia

_JSON = "application/json"
_OF_NAME = {_JSON: _JSON, STREAM: STREAM, FILE: FILE, **dict.fromkeys(msgpack.NAMES, msgpack.MEDIA_TYPE)}
_ANY = frozenset(("*/*", "application/*"))
_LONGEST_ACCEPT = 512  # bytes; of a longer one the start is read

V2Reader = Callable[[bytes, Headers, Servable, LimitSettings], tuple[list[Tensor], Call]]
Opener = Callable[[bytes, Headers, LimitSettings], Awaitable[V2Reader]]


def _as_json(asked: Call) -> call.Call:
    return asked  # JSON, with binary data where the request wants it


_ANSWERS: dict[str, Callable[[Call], call.Call]] = {
    _JSON: _as_json,
    msgpack.MEDIA_TYPE: msgpack.PackedCall,
    STREAM: partial(ArrowCall, media_type=STREAM),
    FILE: partial(ArrowCall, media_type=FILE),
}


def _answering(form: str, read: V2Reader, opens: Opener | None = None) -> Codec:
    """A codec that reads so and answers in this form. opens: what is done away from the event loop before it reads."""
    answer = _ANSWERS[form]

    def reader(read: V2Reader) -> Reader:
        def read_and_answer(
            body: bytes, headers: Headers, servable: Servable, limits: LimitSettings
        ) -> tuple[Sequence[Tensor], call.Call]:
            feeds, asked = read(body, headers, servable, limits)
            return feeds, answer(asked)

        return read_and_answer

    async def prepare(body: bytes, headers: Headers, limits: LimitSettings) -> Codec:
        opened = read if opens is None else await opens(body, headers, limits)
        if form in (STREAM, FILE):
            await arrow_library.load()
        return Codec("v2", reader(opened))

    return Codec("v2", reader(read), prepare if opens is not None or form in (STREAM, FILE) else None)


_OF_JSON = {form: _answering(form, v2.read) for form in _ANSWERS} | {_JSON: v2.CODEC}
_OF_BINARY = {form: _answering(form, v2.read_binary) for form in _ANSWERS} | {_JSON: v2.BINARY}
_OF_MSGPACK = {form: _answering(form, msgpack.read) for form in _ANSWERS}
_OF_ARROW = {form: _answering(form, arrow.read, arrow.open_body) for form in _ANSWERS}
_OF_CODEC = {id(v2.CODEC): _OF_JSON, id(v2.BINARY): _OF_BINARY}


def choose(headers: Headers) -> Codec:
    """The codec of a request. Raises UnsupportedMedia."""
    own = _OF_NAME.get(media_type(headers), _JSON)
    wanted = _wanted(headers.get(b"accept", b"*/*")[:_LONGEST_ACCEPT], own)
    if own == _JSON:
        return _OF_CODEC[id(_json_codec(headers))][wanted]
    return (_OF_MSGPACK if own == msgpack.MEDIA_TYPE else _OF_ARROW)[wanted]


def _json_codec(headers: Headers) -> Codec:
    try:
        return v2.DOOR.choose(headers)
    except UnsupportedMedia:
        raise UnsupportedMedia(
            f"content type {media_type(headers)[:100]!r} is not read here; send application/json, "
            f"application/octet-stream (JSON and binary data), {msgpack.MEDIA_TYPE}, {STREAM} or {FILE}"
        ) from None


@lru_cache(maxsize=256)
def _wanted(accept: bytes, own: str) -> str:
    """The form that an `accept` header likes best; of equals a named one, and the request's own.

    >>> _wanted(b"text/html, application/json;q=0.9, */*;q=0.8", "application/msgpack")
    'application/json'
    """
    best, rank = own, (0.0, False, False)
    for part in accept.decode("latin-1").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        form = own if name in _ANY else _OF_NAME.get(name)
        if form is not None:
            found = (quality(parameters), name not in _ANY, form == own)
            if found[0] > 0 and found > rank:
                best, rank = form, found
    return best


DOOR = Door(v2.CODEC, choose)
