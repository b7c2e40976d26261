"""Who asks, and may a web page have made them ask? The one seam through which every control-port handler goes.

Invariant: nothing changes state for a caller that a foreign web page could be driving. A page that an operator visits
can send requests to 127.0.0.1, under any name that its DNS points there; so state changes need a JSON content type
(which a page cannot send across origins unasked), our own Host, and no foreign Origin. Called by `api.py` only.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gateway.settings import ControlSettings
from registry.errors import ForbiddenOrigin, InvalidSetting, MisdirectedRequest, NotPermitted, UnsupportedMedia
from registry.vocabulary import DEFAULT_TENANT

Role = Literal["viewer", "operator", "admin"]
_RANK: Mapping[str, int] = {"viewer": 0, "operator": 1, "admin": 2}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who an event's actor is. Never taken from a body."""

    name: str
    roles: frozenset[str]
    tenant: str = DEFAULT_TENANT

    def require(self, role: Role) -> None:
        """Raise NotPermitted without this role or a higher one."""
        if max((_RANK[mine] for mine in self.roles), default=-1) < _RANK[role]:
            raise NotPermitted(f"{self.name} may not do this: it needs the role {role}", role=role)


LOCAL = Principal("local", frozenset({"admin"}))


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Doorkeeper:
    """Names the principal of each request, or refuses it."""

    def __init__(self, settings: ControlSettings) -> None:
        self._is_local = is_loopback(settings.host)
        self._token_file = Path(settings.token_file) if settings.token_file else None
        if not self._is_local and self._token_file is None:
            raise InvalidSetting(f"a control port on {settings.host} needs control.token_file")
        self._hosts = _LOOPBACK_NAMES | {_bare(settings.host)} | {_bare(host) for host in settings.allowed_hosts}
        self._read_at_ns = -1
        self._tokens: dict[bytes, Principal] = {}
        if self._token_file is not None:
            self._read_tokens(self._token_file)

    def admit(self, headers: Mapping[str, str], *, changes_state: bool) -> Principal:
        """The principal of a request with these (lower-case) headers.

        Raises NotPermitted, MisdirectedRequest, ForbiddenOrigin, UnsupportedMedia.
        """
        principal = self._identify(headers.get("authorization", ""))
        if changes_state or principal is LOCAL:
            self._check_host(headers.get("host", ""))
        if changes_state:
            self._check_origin(headers)
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise UnsupportedMedia(f"this call needs Content-Type: application/json, got {kind or 'none'}")
        return principal

    def admit_reader(self, headers: Mapping[str, str]) -> None:
        """For pages that need no token: on loopback no foreign name may lead here. Raises MisdirectedRequest."""
        if self._is_local:
            self._check_host(headers.get("host", ""))

    def _identify(self, authorization: str) -> Principal:
        if not authorization:
            if self._is_local:
                return LOCAL
            raise NotPermitted("this control port needs Authorization: Bearer <token>")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or self._token_file is None:
            raise NotPermitted("this control port knows no such credentials")
        self._read_tokens(self._token_file)
        offered = hashlib.sha256(token.strip().encode()).digest()
        found = None
        for known, principal in self._tokens.items():
            if hmac.compare_digest(known, offered):  # all are compared: the time taken says nothing
                found = principal
        if found is None:
            raise NotPermitted("this control port knows no such token")
        return found

    def _read_tokens(self, path: Path) -> None:
        """Again when the file changed: a token can be taken back without a restart."""
        try:
            changed_ns = path.stat().st_mtime_ns
            if changed_ns == self._read_at_ns:
                return
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as fault:
            raise InvalidSetting(f"control.token_file {path} cannot be read: {fault}") from None
        tokens: dict[bytes, Principal] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 3 or words[1] not in _RANK or len(words[2]) < 16:
                raise InvalidSetting(
                    f"{path} line {number}: wanted `name role token`, role one of {', '.join(_RANK)}, "
                    "the token at least 16 characters"
                )
            tokens[hashlib.sha256(words[2].encode()).digest()] = Principal(words[0], frozenset({words[1]}))
        self._tokens, self._read_at_ns = tokens, changed_ns

    def _check_host(self, host: str) -> None:
        if _bare(host) not in self._hosts:
            raise MisdirectedRequest(
                f"the Host header says {host[:100]!r}, which is not this server; name it in control.allowed_hosts"
            )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ForbiddenOrigin("a page of another site may not change state here", origin=(origin or "")[:100])
        if origin is None:
            return
        try:
            from_host = urlsplit(origin).netloc.lower()
        except ValueError:  # half an IPv6 address
            from_host = ""
        if not from_host or from_host != headers.get("host", "").lower():
            raise ForbiddenOrigin(f"a page of {origin[:100]!r} may not change state here", origin=origin[:100])


def _bare(host: str) -> str:
    """A Host header's or setting's name without port and brackets, lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") > 1:  # an IPv6 address as settings write it
        return host
    return host.partition(":")[0]
