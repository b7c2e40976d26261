"""Who may, and what a foreign web page may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.control.principal import LOCAL, Doorkeeper
from gateway.settings import ControlSettings
from registry.errors import (
    ForbiddenOrigin,
    InvalidSetting,
    MisdirectedRequest,
    NotPermitted,
    ServingError,
    UnsupportedMedia,
)

JSON = {"host": "127.0.0.1:8081", "content-type": "application/json"}
LOOPBACK = Doorkeeper(ControlSettings(allowed_hosts=("gate.example",)))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({**JSON}, None),
        ({**JSON, "host": "localhost:9999"}, None),  # a tunnel's port
        ({**JSON, "host": "[::1]:8081"}, None),
        ({**JSON, "host": "gate.example"}, None),
        ({**JSON, "content-type": "application/json; charset=utf-8"}, None),
        ({**JSON, "origin": "http://127.0.0.1:8081"}, None),
        ({**JSON, "origin": "http://127.0.0.1:8081", "sec-fetch-site": "same-origin"}, None),
        ({**JSON, "host": "evil.example"}, MisdirectedRequest),  # its DNS points at us
        ({"content-type": "application/json"}, MisdirectedRequest),
        ({**JSON, "origin": "http://evil.example"}, ForbiddenOrigin),
        ({**JSON, "origin": "http://127.0.0.1:3000"}, ForbiddenOrigin),  # another local program's page
        ({**JSON, "origin": "null"}, ForbiddenOrigin),
        ({**JSON, "origin": "http://["}, ForbiddenOrigin),
        ({**JSON, "sec-fetch-site": "cross-site"}, ForbiddenOrigin),
        ({**JSON, "content-type": "text/plain"}, UnsupportedMedia),  # what a form can send
        ({"host": "127.0.0.1"}, UnsupportedMedia),
        ({**JSON, "authorization": "Bearer something"}, NotPermitted),
    ],
)
def test_a_state_change_on_loopback(headers: dict[str, str], error: type[ServingError] | None) -> None:
    if error is None:
        assert LOOPBACK.admit(headers, changes_state=True) is LOCAL
    else:
        with pytest.raises(error):
            LOOPBACK.admit(headers, changes_state=True)


def test_reading_needs_no_content_type_but_our_own_name() -> None:
    assert LOOPBACK.admit({"host": "localhost"}, changes_state=False) is LOCAL
    with pytest.raises(MisdirectedRequest):
        LOOPBACK.admit({"host": "evil.example"}, changes_state=False)


def test_elsewhere_a_token_names_the_principal_and_its_role(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with pytest.raises(InvalidSetting):
        Doorkeeper(ControlSettings(host="0.0.0.0"))
    file.write_text("# people\nana operator 0123456789abcdef\nbo viewer fedcba9876543210\n")
    door = Doorkeeper(ControlSettings(host="0.0.0.0", token_file=str(file), allowed_hosts=("gate.example",)))
    headers = {**JSON, "host": "gate.example", "authorization": "Bearer 0123456789abcdef"}
    ana = door.admit(headers, changes_state=True)
    assert ana.name == "ana"
    ana.require("operator")
    with pytest.raises(NotPermitted):
        ana.require("admin")
    bo = door.admit({"host": "any.name", "authorization": "bearer fedcba9876543210"}, changes_state=False)
    with pytest.raises(NotPermitted, match="operator"):
        bo.require("operator")
    for authorization in ("", "Bearer wrong", "Basic 0123456789abcdef"):
        with pytest.raises(NotPermitted):
            door.admit({**headers, "authorization": authorization}, changes_state=True)
    file.write_text("bo viewer fedcba9876543210\n")
    os.utime(file, ns=(1, 1))
    with pytest.raises(NotPermitted):
        door.admit(headers, changes_state=True)


@pytest.mark.parametrize("line", ["ana operator", "ana king 0123456789abcdef", "ana viewer short"])
def test_a_token_file_with_a_fault_is_refused_by_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"\n{line}\n")
    with pytest.raises(InvalidSetting, match="line 2"):
        Doorkeeper(ControlSettings(host="0.0.0.0", token_file=str(file)))
