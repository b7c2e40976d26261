"""Both ports against their own documents: made-up calls, right ones and wrong ones, get answers that are described.

No call may be answered with a status, a content type or a body that the document does not name, and none with a 5xx but
for the parts that are documented as not offered (501) and deadlines that the call itself asked for (504).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS as KNOWN
from schemathesis.checks import load_all_checks

from tests.support.models import columns, linear
from tests.support.server import Server, cli, serving

load_all_checks()
CHECKS: list[Any] = KNOWN.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
NO_5XX: list[Any] = KNOWN.get_by_names(["not_a_server_error"])
BINARY = (
    "application/octet-stream",
    "application/msgpack",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
    "application/vnd.apache.parquet",
    "application/cloudevents+json",
    "text/csv",
)


@schemathesis.serializer(*BINARY)
def _as_bytes(_context: Any, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return bytes(msgpack.packb(json.loads(text)))
    except (ValueError, OverflowError):  # text, or a number that MessagePack cannot hold
        return text.encode(errors="replace")


@contextmanager
def two_models(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    """A server with one model of floats and one of columns."""
    home = tmp_path / "home"
    for name, make in (("m", linear), ("visits", columns)):
        cli(home, "register", name, str(make(tmp_path / f"{name}.onnx")), "--alias", "champion")
    with serving(home, free_port) as server:
        yield server


def is_fair(case: Case[Any], status: int) -> bool:
    """Whether a 5xx is what the call asked for."""
    names = {name.lower() for name in case.headers or {}}
    return status == 501 or (status == 504 and "x-deadline-ms" in names)


def storm(url: str, examples: int) -> int:
    """Made-up calls of every operation of the document at this server → how many were sent."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    sent = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body and "{" not in operation.path:
                continue  # any text is right there
            cases = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases, is_known=st.booleans())
            def send(case: Case[Any], is_known: bool) -> None:
                nonlocal sent
                if is_known and "model" in (case.path_parameters or {}):
                    case.path_parameters["model"] = "m"
                response = case.call(base_url=url, timeout=20)
                checks = CHECKS if is_fair(case, response.status_code) else [*NO_5XX, *CHECKS]
                case.validate_response(response, checks=checks)
                sent += 1

            try:
                send()
            except Unsatisfiable:  # nothing in this operation can be wrong
                assert mode is GenerationMode.NEGATIVE, operation.label
    return sent


@pytest.mark.timeout(300)
@pytest.mark.parametrize("examples", [pytest.param(1), pytest.param(60, marks=pytest.mark.slow)])
def test_made_up_calls_of_the_data_port_are_answered_as_documented(
    tmp_path: Path, free_port: Callable[[], int], examples: int
) -> None:
    with two_models(tmp_path, free_port) as server:
        assert storm(server.data_url, examples) > 50
        assert httpx.get(f"{server.data_url}/readyz").status_code == 200
        assert "Traceback" not in server.log.read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("examples", [pytest.param(1), pytest.param(40, marks=pytest.mark.slow)])
def test_made_up_calls_of_the_control_port_are_answered_as_documented(
    tmp_path: Path, free_port: Callable[[], int], examples: int
) -> None:
    with two_models(tmp_path, free_port) as server:
        assert storm(server.control_url, examples) > 30
        assert httpx.get(f"{server.control_url}/readyz").status_code == 200
        assert "Traceback" not in server.log.read_text()
