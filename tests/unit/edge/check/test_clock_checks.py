"""Every message about the clock, which is set here as the machine's is not."""

from __future__ import annotations

import email.utils
import socket
import threading
from pathlib import Path

import pytest

from muster.edge.check import clock_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import Result
from muster.edge.check.run import CONNECTION, run
from muster.edge.check.surroundings import Surroundings
from unit.edge.check.conftest import DPS, Device, fine, problem, tls_server

WARNING = Result.WARNING


class _TimeServer:
    def __init__(self, answer: bytes) -> None:
        self._channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._channel.bind(("127.0.0.1", 0))
        self.port = int(self._channel.getsockname()[1])
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        _, who = self._channel.recvfrom(100)
        self._channel.sendto(self._answer, who)
        self._channel.close()


def _asking(device: Device, ahead_s: float) -> Surroundings:
    unix_s = int(device.clock.time() - ahead_s)
    server = _TimeServer(bytes(40) + (unix_s + 2_208_988_800).to_bytes(4) + bytes(4))
    device.options["ntp_server"] = f"127.0.0.1:{server.port}"
    return device.around()


def test_a_clock_that_is_right(device: Device) -> None:
    around = _asking(device, 0)
    assert abs(fine(checks.local_time, around).facts["skew_s"]) < 10
    assert abs(around.service_time() - device.clock.time()) < 10


@pytest.mark.parametrize(("ahead_s", "direction"), [(60, "ahead"), (-60, "behind")])
def test_a_clock_that_is_off(ahead_s: int, direction: str, device: Device) -> None:
    what, fix = problem(checks.local_time, _asking(device, ahead_s), Cause.CLOCK_OFF, WARNING)
    assert what.startswith("the clock of this device is ")
    assert what.endswith(f" s {direction}")
    assert "time server" in fix


def test_a_clock_that_is_wrong(device: Device) -> None:
    around = _asking(device, 4000)
    problem(checks.local_time, around, Cause.CLOCK_WRONG)
    assert abs(device.clock.time() - 4000 - around.service_time()) < 10


def test_the_service_tells_the_time_whatever_its_certificate(
    device: Device, tmp_path: Path
) -> None:
    """With a clock that is wrong, no certificate is accepted: so it must be asked nevertheless."""
    with tls_server(tmp_path) as server:
        device.options["hub_host"] = f"127.0.0.1:{server.port}"
        date = email.utils.formatdate(device.clock.time(), usegmt=True)
        server.answer = f"HTTP/1.1 404 No\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n".encode()
        fine(checks.local_time, device.around())
        device.clock.advance(-86_400 * 365)
        what, _ = problem(checks.local_time, device.around(), Cause.CLOCK_WRONG)
        assert what.endswith(" s behind")


def test_a_wrong_clock_is_one_error(device: Device, tmp_path: Path) -> None:
    """A service of two months ago is to this device what one of today is to a clock ahead."""
    ago_s = 60 * 86_400
    with tls_server(tmp_path, shift_s=-ago_s) as server:
        device.write(base=DPS % server.port, top=f'trust_bundle_cert = "file://{server.ca}"\n')
        date = email.utils.formatdate(device.clock.time() - ago_s, usegmt=True)
        server.answer = f"HTTP/1.1 404 No\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n".encode()
        found = {each.check.id: each.outcome for each in run(CONNECTION, device.around())}
    wrong = [name for name, each in found.items() if each.result is Result.ERROR]
    assert wrong == ["host-local-time", "edge-hub"]  # no daemon runs here
    dps = found["host-connect-dps-endpoint"]
    assert dps.cause is Cause.CERTIFICATE_BY_WRONG_CLOCK
    assert dps.details[1] == "Fix: set the clock first: see host-local-time"
    assert found["dps-registration"].cause is Cause.EARLIER_CHECK


@pytest.mark.parametrize("date", [b"", b"date: nonsense\r\n"])
def test_nobody_told_the_time(date: bytes, device: Device, tmp_path: Path) -> None:
    device.options["hub_host"] = "hub.invalid"
    problem(checks.local_time, device.around(), Cause.TIME_UNKNOWN, Result.SKIPPED)
    with tls_server(tmp_path) as server:
        server.answer = b"HTTP/1.1 200 OK\r\n" + date + b"content-length: 0\r\n\r\n"
        device.options["hub_host"] = f"127.0.0.1:{server.port}"
        problem(checks.local_time, device.around(), Cause.TIME_UNKNOWN, Result.SKIPPED)


def test_time_servers(device: Device) -> None:
    server = _TimeServer(b"hello")
    device.options["ntp_server"] = f"127.0.0.1:{server.port}"
    what, _ = problem(checks.local_time, device.around(), Cause.TIME_SERVER_FOREIGN, WARNING)
    assert what == f"127.0.0.1:{server.port} is no time server"
    device.options["patience_s"] = 0.2
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        device.options["ntp_server"] = f"127.0.0.1:{port}"
        what, _ = problem(checks.local_time, device.around(), Cause.TIME_SERVER_SILENT, WARNING)
    assert what == f"the time server 127.0.0.1:{port} does not answer: timed out"
    for nonsense in ("127.0.0.1:99999", f"{'x' * 64}.example", "\u00fc" * 70, ""):
        device.options["ntp_server"] = nonsense
        problem(checks.local_time, device.around(), Cause.TIME_SERVER_SILENT, WARNING)
