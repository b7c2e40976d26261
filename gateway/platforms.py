"""Hosting platforms that tell a container by their own variables where to listen and which paths to answer.

They are defaults: a setting in a file, a `DRIFTGATE_` variable or a flag wins. A platform that is not there, which is
known by its variables, changes nothing. All of them reach a container from outside, so where one is found the data port
listens on every address. Called by `settings_load.load`; standard library only. What each platform asks for:
docs/protocols/containers.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

OTHER_PORTS = ("control.port", "gateway.grpc_port")  # beside the data port, in the order in which a range is used
AZURE_PORT = "5001"  # of Azure Machine Learning's own inference server, which passes no port
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")


def platform_defaults(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Settings that platforms' variables ask for, as (dotted name, text, variable).

    >>> list(platform_defaults({"AIP_HTTP_PORT": "7080"}))
    [('gateway.host', '0.0.0.0', 'AIP_HTTP_PORT'), ('gateway.port', '7080', 'AIP_HTTP_PORT')]
    """
    azure = next((name for name in ("AZUREML_MODEL_DIR", "AZUREML_ENTRY_SCRIPT") if environ.get(name)), None)
    if azure is not None:
        yield "gateway.host", "0.0.0.0", azure  # noqa: S104 - a container
        yield "gateway.port", AZURE_PORT, azure
    for variable in ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT"):
        if environ.get(variable):
            yield "gateway.host", "0.0.0.0", variable  # noqa: S104 - a container
            yield "gateway.port", environ[variable], variable
    for name, variable in (("predict_route", "AIP_PREDICT_ROUTE"), ("health_route", "AIP_HEALTH_ROUTE")):
        if environ.get(variable):
            yield f"gateway.{name}", environ[variable], variable
    if environ.get("SAGEMAKER_SAFE_PORT_RANGE"):
        yield from _other_ports(environ["SAGEMAKER_SAFE_PORT_RANGE"], environ.get("SAGEMAKER_BIND_TO_PORT", ""))


def _other_ports(text: str, taken: str) -> Iterator[tuple[str, str, str]]:
    """Ports beside the data port, where containers share one network and only a range is free.

    >>> list(_other_ports("9000-9010", "9000"))
    [('control.port', '9001', 'SAGEMAKER_SAFE_PORT_RANGE'), ('gateway.grpc_port', '9002', 'SAGEMAKER_SAFE_PORT_RANGE')]
    >>> list(_other_ports("all", ""))
    [('control.port', 'all', 'SAGEMAKER_SAFE_PORT_RANGE')]
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:  # not a port either, so the settings say what is wrong with it
        yield "control.port", text, "SAGEMAKER_SAFE_PORT_RANGE"
        return
    low, high = int(match[1]), int(match[2])
    free = [port for port in range(low, min(high, low + 4) + 1) if str(port) != taken]
    for name, port in zip(OTHER_PORTS, free, strict=False):
        yield name, str(port), "SAGEMAKER_SAFE_PORT_RANGE"
