"""Every way a connection may fail, made by a server that fails that way."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from muster.edge.check import connection_checks as checks
from muster.edge.check import probe
from muster.edge.check.outcome import Outcome, Result
from muster.edge.check.surroundings import Surroundings
from unit.edge.check.conftest import Device, problem, tls_server

DAY = 86_400


def _get(host: str, port: int) -> object:
    def check(around: Surroundings) -> Outcome:
        answer = probe.request(around, host, port, "GET", "/")
        return Outcome(result=Result.OK, facts={"status": answer.status})

    return check


def _trusting(device: Device, ca: Path) -> Surroundings:
    device.write(base=f'trust_bundle_cert = "file://{ca}"\n' + device.file.read_text())
    return device.around()


def test_a_service_that_is_as_it_should_be(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        around = _trusting(device, server.ca)
        answer = probe.request(around, "127.0.0.1", server.port, "GET", "/")
    assert (answer.status, answer.date) == (200, None)


def test_dns(device: Device) -> None:
    what, fix = problem(_get("nothing.invalid", 443), device.around())
    assert what.startswith("DNS: nothing.invalid cannot be resolved: ")
    assert "/etc/resolv.conf" in fix


def test_tcp(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    what, fix = problem(_get("127.0.0.1", port), device.around())
    assert what == f"TCP: 127.0.0.1:{port} refuses the connection"
    assert f"TCP to port {port}" in fix
    monkeypatch.setattr(probe, "PATIENCE_S", 0.2)
    # A queue that is full answers nobody, as a firewall that drops packets.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        waiting = []
        for _ in range(4):
            knocking = socket.socket()
            knocking.setblocking(False)
            knocking.connect_ex(("127.0.0.1", port))
            waiting.append(knocking)
        what, fix = problem(_get("127.0.0.1", port), device.around())
        for knocking in waiting:
            knocking.close()
    assert what == f"TCP: no connection to 127.0.0.1:{port}: timed out"
    assert "firewalls" in fix


def test_no_tls(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        around = _trusting(device, server.ca)
        server.context = None
        what, fix = problem(_get("127.0.0.1", server.port), around)
    assert what.startswith(f"127.0.0.1:{server.port} answers, but not with TLS: ")
    assert "captive portal" in fix


def test_an_unknown_ca(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        what, fix = problem(_get("127.0.0.1", server.port), device.around())
        assert what.startswith("TLS: the certificate of 127.0.0.1 is not accepted: ")
        assert "trust_bundle_cert is not set" in fix
        (tmp_path / "other").mkdir()
        with tls_server(tmp_path / "other") as other:
            around = _trusting(device, other.ca)
            _, fix = problem(_get("127.0.0.1", server.port), around)
            assert f"{other.ca} is used" in fix


@pytest.mark.parametrize("shift", [-60 * DAY, 60 * DAY])
def test_an_expired_certificate_or_a_wrong_clock(
    shift: int, device: Device, tmp_path: Path
) -> None:
    with tls_server(tmp_path, shift_s=shift) as server:
        what, fix = problem(_get("127.0.0.1", server.port), _trusting(device, server.ca))
    assert "is not accepted: certificate " in what
    assert "clock" in fix


def test_another_name(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path, "other.example.org") as server:
        around = _trusting(device, server.ca)
        for host in ("127.0.0.1", "localhost"):
            what, fix = problem(_get(host, server.port), around)
            assert "mismatch" in what
            assert "use a name that the certificate of the service has" in fix


def test_a_service_that_breaks_off(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        server.answer = b"SSH-2.0\r\n"
        what, _ = problem(_get("127.0.0.1", server.port), _trusting(device, server.ca))
    assert what.startswith(f"127.0.0.1:{server.port} broke off: BadStatusLine")


def test_a_trust_bundle_that_cannot_be_used(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        what, _ = problem(
            _get("127.0.0.1", server.port), _trusting(device, tmp_path / "missing.pem")
        )
    assert what.startswith("trust_bundle_cert cannot be used: ")


# Proxies.


class _Proxy:
    """Answers one CONNECT, and passes bytes on if it said yes."""

    def __init__(self, answer: str, target: int) -> None:
        self.asked = b""
        self._answer = answer
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(30)

    def _serve(self) -> None:
        accepted, _ = self._listening.accept()
        while b"\r\n\r\n" not in self.asked:
            self.asked += accepted.recv(1000)
        accepted.sendall(f"HTTP/1.1 {self._answer}\r\n\r\n".encode())
        if self._answer.startswith("200"):
            with socket.create_connection(("127.0.0.1", self._target)) as onward:
                back = threading.Thread(target=self._pump, args=(onward, accepted), daemon=True)
                back.start()
                self._pump(accepted, onward)
                back.join(30)
        accepted.close()
        self._listening.close()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(10_000):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_proxies(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        around = _trusting(device, server.ca)
        proxy = _Proxy("200 OK", server.port)
        device.environment["https_proxy"] = f"http://u:p@127.0.0.1:{proxy.port}"
        answer = probe.request(around, "127.0.0.1", server.port, "GET", "/")
        assert answer.status == 200
        proxy.join()
        assert b"Proxy-Authorization: Basic dTpw" in proxy.asked
        refusing = _Proxy("407 Who are you", server.port)
        device.options["proxy"] = f"http://127.0.0.1:{refusing.port}"
        what, fix = problem(_get("127.0.0.1", server.port), device.around())
        assert what.endswith(f"opens no way to 127.0.0.1:{server.port}: 407 Who are you")
        assert "CONNECT" in fix
        refusing.join()
        device.options["proxy"] = "ftp://x"
        what, _ = problem(_get("127.0.0.1", server.port), device.around())
        assert what.startswith("https_proxy: a proxy must be")


def test_proxies_that_are_not_there(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    device.options["proxy"] = f"http://127.0.0.1:{port}"
    what, _ = problem(_get("hub.example", 443), device.around())
    assert what == f"TCP: the proxy 127.0.0.1:{port} refuses the connection"
    device.options["proxy"] = "http://nothing.invalid:3128"
    what, _ = problem(_get("hub.example", 443), device.around())
    assert what.startswith("DNS: the proxy nothing.invalid cannot be resolved: ")


def test_a_proxy_that_breaks_off(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            accepted, _ = listening.accept()
            accepted.recv(1000)
            accepted.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        device.options["proxy"] = f"http://127.0.0.1:{port}"
        what, _ = problem(_get("hub.example", 443), device.around())
        thread.join(30)
    assert what == f"the proxy 127.0.0.1:{port} opens no way to hub.example:443: it broke off"


def test_no_way_there(device: Device) -> None:
    # TCP has no way to a group of hosts, whatever the routes of this machine.
    what, fix = problem(_get("224.0.0.1", 443), device.around())
    assert what == "TCP: no connection to 224.0.0.1:443: Network is unreachable"
    assert "has a network" in fix


# The clock.


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


def _ntp_answer(unix_s: float) -> bytes:
    return bytes(40) + (int(unix_s) + 2_208_988_800).to_bytes(4) + bytes(4)


@pytest.mark.parametrize(
    ("ahead_s", "result"),
    [(0, None), (60, Result.WARNING), (-60, Result.WARNING), (4000, Result.ERROR)],
)
def test_the_clock(ahead_s: int, result: Result | None, device: Device) -> None:
    server = _TimeServer(_ntp_answer(device.clock.time() - ahead_s))
    device.options["ntp_server"] = f"127.0.0.1:{server.port}"
    if result is None:
        assert checks.local_time(device.around()).result is Result.OK
        return
    what, fix = problem(checks.local_time, device.around(), result)
    direction = "ahead" if ahead_s > 0 else "behind"
    assert what.startswith("the clock of this device is ")
    assert what.endswith(f" s {direction}")
    assert "time server" in fix


def test_time_servers(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    server = _TimeServer(b"hello")
    device.options["ntp_server"] = f"127.0.0.1:{server.port}"
    what, _ = problem(checks.local_time, device.around(), Result.WARNING)
    assert what == f"127.0.0.1:{server.port} is no time server"
    monkeypatch.setattr(checks, "PATIENCE_S", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        device.options["ntp_server"] = f"127.0.0.1:{port}"
        what, _ = problem(checks.local_time, device.around(), Result.WARNING)
    assert what == f"the time server 127.0.0.1:{port} does not answer: timed out"


def test_nobody_told_the_time(device: Device) -> None:
    assert checks.local_time(device.around()).result is Result.SKIPPED


# The device's own doors.


def test_no_trust_bundle_yet(device: Device, tmp_path: Path) -> None:
    device.write(f'[listen]\nworkload_uri = "unix://{tmp_path}/w.sock"\n')
    what, _ = problem(checks.edge_hub, device.around())
    assert what.startswith(f"the workload API at {tmp_path}/w.sock gives modules no trust bundle: ")


def test_a_workload_api_that_says_no(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    device.write(f'[listen]\nworkload_uri = "unix://{path}"\n')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def refuse() -> None:
            accepted, _ = listening.accept()
            accepted.recv(1000)
            accepted.sendall(_answer("503 No", '{"message": "not yet"}'))
            accepted.close()

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        what, fix = problem(checks.edge_hub, device.around())
        thread.join(30)
    assert what == f"the workload API at {path} gives modules no trust bundle: not yet"
    assert "iotedge system logs" in fix


def test_the_edge_hub(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_server(tmp_path) as server:
        hub = (
            f'[edge_hub]\naddress = "127.0.0.1"\nmqtt_port = {server.port}\n'
            f"https_port = {server.port}\namqp_port = {server.port}\n"
        )
        device.write(hub, base='hostname = "127.0.0.1"\n' + device.file.read_text())
        anchors = server.ca.read_text()
        monkeypatch.setattr(checks, "_trust_bundle", lambda _around: anchors)
        assert checks.edge_hub(device.around()).result is Result.OK
        (tmp_path / "other").mkdir()
        with tls_server(tmp_path / "other") as other:
            anchors = other.ca.read_text()
            what, fix = problem(checks.edge_hub, device.around())
            assert what.startswith("the edge hub's certificate is not accepted: ")
            assert "iotedge restart edgeHub" in fix
    what, fix = problem(checks.edge_hub, device.around())
    assert what.startswith(f"the edge hub does not listen on 127.0.0.1:{server.port}: ")
    assert "ss -ltnp" in fix


# Answers that no service of ours gives.

DPS = """
homedir = "{home}"
[provisioning]
source = "dps"
global_endpoint = "https://127.0.0.1:%d"
id_scope = "0ne1"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "r"
symmetric_key = { value = "c2l4dGVlbiBieXRlcyBvciBtb3Jl" }
"""


def _answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def test_a_provisioning_service_in_trouble(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        device.write(base=f'trust_bundle_cert = "file://{server.ca}"\n' + DPS % server.port)
        server.answer = _answer("503 Busy", '{"errorCode": 503, "message": "later"}')
        what, _ = problem(checks.dps_registration, device.around())
        assert what == "the provisioning service answers with HTTP 503: later"
        server.answer = _answer("404 No", '{"errorCode": 404, "message": "no such scope"}')
        what, _ = problem(checks.dps_registration, device.around())
        assert what == "the provisioning service knows no r in 0ne1: no such scope"
        server.answer = _answer("401 No", '{"errorCode": 401002, "message": "Unauthorized"}')
        around = device.around()
        around.skew_s = 4000.0
        _, fix = problem(checks.dps_registration, around)
        assert fix.endswith("First set the clock: it is 4000 s off, and tokens have a time")


def test_a_hub_in_trouble(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        device.write(base=f'trust_bundle_cert = "file://{server.ca}"\n' + device.file.read_text())
        device.options["hub_host"] = f"127.0.0.1:{server.port}"
        server.answer = _answer("500 Oh", '{"Message": "internal"}')
        what, _ = problem(checks.hub_authentication, device.around())
        assert what == "the hub 127.0.0.1 answers with HTTP 500: internal"
        server.answer = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
        around = device.around()
        assert checks.hub_https(around).result is Result.OK
        what, _ = problem(checks.local_time, around)
        assert what.endswith(" s ahead")


def test_below_another_device_the_hub_is_looked_for_there(device: Device) -> None:
    device.write(base='parent_hostname = "above.invalid"\n' + device.file.read_text())
    for check in (checks.hub_https, checks.hub_authentication):
        what, _ = problem(check, device.around())
        assert what.startswith("DNS: above.invalid cannot be resolved")
