"""Fixtures of the command line's tests: a service, a data directory that names it, a runner."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from click.testing import CliRunner, Result

from muster.cli.root import muster
from muster.config import HubInfo, InstanceInfo, Ports
from unit.cli.cli_service import CliService


class Run(Protocol):
    """Runs `muster …`; `code` is the exit code it must end with."""

    def __call__(self, *arguments: str, code: int = 0, text: str | None = None) -> Result: ...


@pytest.fixture
def service(tmp_path: Path) -> Iterator[CliService]:
    service = CliService(tmp_path / "ca")
    yield service
    service.close()


@pytest.fixture
def info(service: CliService) -> InstanceInfo:
    return InstanceInfo(
        id_scope="0ne00000001",
        dps_host="localhost",
        dps_connection_string=service.login(),
        hubs=[HubInfo(service.host, service.login(name="iothubowner"), "Endpoint=sb://localhost/")],
        ca_file=str(service.ca_file),
        console_url=None,
        ports=Ports(https=service.port, mqtt=8883, amqp=5671),
        version="1.0.0",
        pid=os.getpid(),
        address=service.host,
    )


@pytest.fixture
def data_dir(tmp_path: Path, info: InstanceInfo) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    write_info(directory, info)
    return directory


def write_info(directory: Path, info: InstanceInfo) -> None:
    (directory / "instance.json").write_bytes(msgspec.json.encode(info))


@pytest.fixture
def run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("MUSTER_CONNECTION_STRING", "MUSTER_CA_FILE", "REQUESTS_CA_BUNDLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUSTER_DATA_DIR", str(data_dir))

    def invoke(*arguments: str, code: int = 0, text: str | None = None) -> Result:
        result = CliRunner().invoke(muster, arguments, input=text, prog_name="muster")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


def parsed(result: Result) -> Any:
    return msgspec.json.decode(result.stdout)
