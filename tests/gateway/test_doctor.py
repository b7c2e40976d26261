"""`driftgate doctor`: each check finds what is wrong, and looking changes nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway import doctor
from gateway.serve_lock import Serving
from gateway.settings import ControlSettings, GatewaySettings, Settings
from gateway.settings_load import load
from registry.home import Home

FREE = Settings(gateway=GatewaySettings(port=0, grpc_port=0), control=ControlSettings(port=0))


def test_a_good_place_has_no_failure_and_stays_untouched(tmp_path: Path) -> None:
    home = Home(root=tmp_path / "home", run=tmp_path / "home" / "run")
    findings = doctor.examine(home, FREE, {})
    assert [finding.name for finding in findings if finding.status == "failed"] == []
    assert len({finding.name for finding in findings}) == 10
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_fails_and_names_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.check_port("data port", "127.0.0.1", taken.getsockname()[1], "--port", None)
    assert finding.status == "failed"
    assert "--port" in finding.advice


def test_a_port_of_our_own_server_is_as_it_should_be() -> None:
    serving = Serving(pid=7, control_url="", data_url="", run_dir="", boot_id="")
    assert doctor.check_port("data port", "127.0.0.1", 1, "--port", serving).status == "ok"


def test_a_missing_or_taken_grpc_port_fails_only_where_grpc_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(grpc: str, port: int) -> str:
        return doctor.check_grpc(GatewaySettings(grpc=grpc, grpc_port=port), None).status

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert [found(grpc, port) for grpc in ("off", "auto", "on")] == ["ok", "warning", "failed"]
    monkeypatch.setattr(doctor, "is_installed", lambda: False)
    assert [found(grpc, 0) for grpc in ("off", "auto", "on")] == ["ok", "ok", "failed"]


def test_a_folder_that_cannot_be_written_fails() -> None:
    assert doctor.check_folder(Path("/proc/driftgate")).status == "failed"


def test_too_little_room_for_lanes_fails(tmp_path: Path) -> None:
    settings = load(None, {}, {"lanes.lane_bytes": 2**40, "gateway.workers": 256}).settings
    assert doctor.check_room(Home(root=tmp_path, run=tmp_path), settings).status == "failed"


def test_a_model_that_cannot_run_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(doctor, "_run_model", broken)
    finding = doctor._tried("onnxruntime", doctor.check_onnxruntime)
    assert (finding.status, finding.told) == ("failed", "RuntimeError: illegal instruction")


def test_a_server_that_holds_the_lock_and_does_not_answer_fails(tmp_path: Path) -> None:
    serving = Serving(pid=7, control_url="http://127.0.0.1:9", data_url="http://127.0.0.1:9", run_dir="", boot_id="")
    home = Home(root=tmp_path, run=tmp_path)
    finding = doctor._tried("server", lambda: doctor.check_server(home, serving, {}))
    assert finding.status == "failed"
    assert "127.0.0.1:9" in finding.told
