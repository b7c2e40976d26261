"""Settings: precedence, faults reported together, and the way to children."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import BatchSettings, GatewaySettings, Settings
from gateway.settings_load import find_config, from_json, leaves, load, to_json, variable_of
from registry.errors import InvalidSetting


def test_without_anything_given_every_value_is_its_default() -> None:
    loaded = load(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {name for name, _kind, _default in leaves()}


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "driftgate.toml"
    file.write_text("[gateway]\nport = 1\nworkers = 2\ndrain_s = 3\n[gateway.batch]\nmax_rows = 8\n")
    environ = {"DRIFTGATE_GATEWAY__WORKERS": "3", "DRIFTGATE_GATEWAY__PORT": "2", "DRIFTGATE_HOME": "/x"}
    loaded = load(file, environ, {"gateway.port": 3, "gateway.host": None})
    gateway = loaded.settings.gateway
    assert (gateway.port, gateway.workers, gateway.drain_s, gateway.batch.max_rows) == (3, 3, 3.0, 8)
    assert loaded.origins["gateway.port"] == "flag"
    assert loaded.origins["gateway.workers"] == "environment"
    assert loaded.origins["gateway.drain_s"] == str(file)
    assert loaded.origins["gateway.host"] == "default"


def test_a_setting_of_a_few_words_takes_no_other() -> None:
    assert load(None, {}, {"gateway.grpc": "off"}).settings.gateway.grpc == "off"
    with pytest.raises(InvalidSetting, match=r"gateway\.grpc is 'yes', wanted auto, on or off"):
        load(None, {}, {"gateway.grpc": "yes"})


def test_all_faults_are_told_together_with_origin_and_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "driftgate.toml"
    file.write_text("[gateway]\nprot = 1\nworkers = 2.5\n")
    environ = {"DRIFTGATE_GATEWAY__BATCH__MAX_ROW": "3", "DRIFTGATE_MONITOR__ENABLED": "maybe"}
    with pytest.raises(InvalidSetting) as caught:
        load(file, environ, {"control.port": 99999})
    told = caught.value.message
    assert f"{file}: there is no setting gateway.prot; did you mean gateway.port?" in told
    assert "gateway.workers is 2.5, wanted a whole number" in told
    assert "did you mean DRIFTGATE_GATEWAY__BATCH__MAX_ROWS?" in told
    assert "DRIFTGATE_MONITOR__ENABLED is 'maybe', wanted true or false" in told
    assert "flag: control.port is 99999, wanted from 0 to 65535" in told
    assert len(caught.value.details["faults"]) == 5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("monitor.enabled", "off", False),
        ("gateway.drain_s", "0.25", 0.25),
        ("control.allowed_hosts", "a.example, b.example", ("a.example", "b.example")),
        ("control.token_file", "/t", "/t"),
    ],
)
def test_variables_are_read_by_the_type_of_the_setting(name: str, text: str, value: object) -> None:
    settings: object = load(None, {variable_of(name): text}, {}).settings
    for part in name.split("."):
        settings = getattr(settings, part)
    assert settings == value


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e400"])
def test_a_number_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        load(None, {"DRIFTGATE_GATEWAY__DRAIN_S": text}, {})


@pytest.mark.parametrize("toml", ["x = ", "[gateway.port]\na = 1\n", "gateway = 3\n", "\x00"])
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, toml: str) -> None:
    file = tmp_path / "driftgate.toml"
    file.write_text(toml)
    with pytest.raises(InvalidSetting, match=r"driftgate\.toml"):
        load(file, {}, {})


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read"):
        load(tmp_path / "none.toml", {}, {})


def test_a_child_gets_exactly_the_tree_of_its_parent() -> None:
    settings = Settings(gateway=GatewaySettings(port=0, drain_s=0.5, batch=BatchSettings(max_rows=3)))
    assert from_json(to_json(settings)) == settings


@pytest.mark.parametrize("text", ["", "[]", '{"gateway": {"prot": 1}}', '{"gateway": {"port": "x"}}'])
def test_a_child_refuses_settings_that_are_not_a_tree(text: str) -> None:
    with pytest.raises(InvalidSetting):
        from_json(text)


def test_the_file_beside_the_state_is_found_before_the_one_in_the_working_folder(tmp_path: Path) -> None:
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    assert find_config(None, home, cwd) is None
    (cwd / "driftgate.toml").touch()
    assert find_config(None, home, cwd) == cwd / "driftgate.toml"
    (home / "driftgate.toml").touch()
    assert find_config(None, home, cwd) == home / "driftgate.toml"
    assert find_config(cwd / "other.toml", home, cwd) == cwd / "other.toml"


def test_a_platforms_variables_are_defaults_that_everything_of_ours_overrides(tmp_path: Path) -> None:
    file = tmp_path / "driftgate.toml"
    file.write_text("[gateway]\nhealth_route = '/mine'\n")
    environ = {"AIP_HTTP_PORT": "7080", "AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p"}
    loaded = load(file, {**environ, "DRIFTGATE_GATEWAY__PREDICT_ROUTE": "/q"}, {"gateway.host": "127.0.0.2"})
    gateway = loaded.settings.gateway
    assert (gateway.host, gateway.port) == ("127.0.0.2", 7080)
    assert (gateway.health_route, gateway.predict_route) == ("/mine", "/q")
    assert loaded.origins["gateway.port"] == "environment (AIP_HTTP_PORT)"
    assert from_json(to_json(loaded.settings)) == loaded.settings


@pytest.mark.parametrize(
    ("environ", "host", "port", "control_port"),
    [
        ({"SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_SAFE_PORT_RANGE": "9000-9010"}, "0.0.0.0", 9000, 9001),
        ({"SAGEMAKER_SAFE_PORT_RANGE": "21000-21999"}, "127.0.0.1", 8080, 21000),
        ({"AZUREML_MODEL_DIR": "/var/azureml-app/models"}, "0.0.0.0", 5001, 8081),
        ({"AIP_HTTP_PORT": "", "SAGEMAKER_BIND_TO_PORT": ""}, "127.0.0.1", 8080, 8081),
        ({"HOME": "/root", "PORT": "1"}, "127.0.0.1", 8080, 8081),
    ],
)
def test_each_platform_is_known_by_its_variables(
    environ: dict[str, str], host: str, port: int, control_port: int
) -> None:
    settings = load(None, environ, {}).settings
    assert (settings.gateway.host, settings.gateway.port, settings.control.port) == (host, port, control_port)


def test_a_platforms_variable_that_means_nothing_is_told_by_its_own_name() -> None:
    environ = {"AIP_HTTP_PORT": "http", "AIP_PREDICT_ROUTE": "predict", "SAGEMAKER_SAFE_PORT_RANGE": "9000"}
    with pytest.raises(InvalidSetting) as caught:
        load(None, environ, {})
    told = caught.value.message
    assert "AIP_HTTP_PORT is 'http', wanted a whole number" in told
    assert "AIP_PREDICT_ROUTE is 'predict', wanted a path that begins with /" in told
    assert len(caught.value.details["faults"]) == 2  # a range of one port is that port
