"""Every way a connection may fail, made by a server that fails that way."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from muster.edge.check import probe
from muster.edge.check.causes import Cause
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
    device.write(top=f'trust_bundle_cert = "file://{ca}"\n')
    return device.around()


def test_a_service_that_is_as_it_should_be(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        around = _trusting(device, server.ca)
        answer = probe.request(around, "127.0.0.1", server.port, "GET", "/")
    assert (answer.status, answer.date) == (200, None)


def test_dns(device: Device) -> None:
    what, fix = problem(_get("nothing.invalid", 443), device.around(), Cause.NAME_UNKNOWN)
    assert what.startswith("DNS: nothing.invalid cannot be resolved: ")
    assert "/etc/resolv.conf" in fix


def test_tcp(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    what, fix = problem(_get("127.0.0.1", port), device.around(), Cause.PORT_REFUSED)
    assert what == f"TCP: 127.0.0.1:{port} refuses the connection"
    assert f"TCP to port {port}" in fix
    device.options["patience_s"] = 0.2
    # A queue that is full answers nobody, as a firewall that drops packets.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        waiting = []
        for _ in range(4):
            knocking = socket.socket()
            knocking.setblocking(False)
            knocking.connect_ex(("127.0.0.1", port))
            waiting.append(knocking)
        what, fix = problem(_get("127.0.0.1", port), device.around(), Cause.PORT_SILENT)
        for knocking in waiting:
            knocking.close()
    assert what == f"TCP: no connection to 127.0.0.1:{port}: timed out"
    assert "firewalls" in fix


def test_no_tls(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        around = _trusting(device, server.ca)
        server.context = None
        what, fix = problem(_get("127.0.0.1", server.port), around, Cause.NOT_TLS)
    assert what.startswith(f"127.0.0.1:{server.port} answers, but not with TLS: ")
    assert "captive portal" in fix


def test_an_unknown_ca(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server, tls_server(tmp_path / "other") as other:
        what, fix = problem(_get("127.0.0.1", server.port), device.around(), Cause.CA_UNKNOWN)
        assert what.startswith("TLS: the certificate of 127.0.0.1 is not accepted: ")
        assert "trust_bundle_cert is not set" in fix
        around = _trusting(device, other.ca)
        _, fix = problem(_get("127.0.0.1", server.port), around, Cause.CA_UNKNOWN)
        assert f"{other.ca} is used" in fix


@pytest.mark.parametrize("shift", [-60 * DAY, 60 * DAY])
def test_a_certificate_out_of_time(shift: int, device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path, shift_s=shift) as server:
        around = _trusting(device, server.ca)
        what, fix = problem(_get("127.0.0.1", server.port), around, Cause.CERTIFICATE_OUT_OF_TIME)
    assert "is not accepted: certificate " in what
    assert f"clock says {device.clock.now():%Y-%m-%d %H:%M} UTC)" in what
    assert "must be renewed; else set the clock" in fix


def test_a_clock_that_is_known_to_be_wrong_comes_first(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path, shift_s=-60 * DAY) as server:
        around = _trusting(device, server.ca)
        around.skew_s = 60.0 * DAY
        _, fix = problem(
            _get("127.0.0.1", server.port),
            around,
            Cause.CERTIFICATE_BY_WRONG_CLOCK,
            Result.SKIPPED,
        )
    assert fix == "set the clock first: see host-local-time"


def test_another_name(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path, "other.example.org") as server:
        around = _trusting(device, server.ca)
        for host in ("127.0.0.1", "localhost"):
            what, fix = problem(_get(host, server.port), around, Cause.NAME_MISMATCH)
            assert "mismatch" in what
            assert "use a name that the certificate of the service has" in fix


def test_a_service_that_breaks_off(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        server.answer = b"SSH-2.0\r\n"
        around = _trusting(device, server.ca)
        what, _ = problem(_get("127.0.0.1", server.port), around, Cause.BROKEN_OFF)
    assert what.startswith(f"127.0.0.1:{server.port} broke off: BadStatusLine")


def test_a_trust_bundle_that_cannot_be_used(device: Device, tmp_path: Path) -> None:
    """As with `--dont-run trust-bundle`."""
    with tls_server(tmp_path) as server:
        around = _trusting(device, tmp_path / "missing.pem")
        what, _ = problem(_get("127.0.0.1", server.port), around, Cause.TRUST_BUNDLE_UNUSABLE)
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
        # The daemon's proxy counts, and not that of whoever runs the command.
        device.environment["https_proxy"] = "http://nothing.invalid"
        with device.listener(https_proxy=f"http://u:p@127.0.0.1:{proxy.port}"):
            answer = probe.request(around, "127.0.0.1", server.port, "GET", "/")
            assert answer.status == 200
        proxy.join()
        assert b"Proxy-Authorization: Basic dTpw" in proxy.asked
        refusing = _Proxy("407 Who are you", server.port)
        device.options["proxy"] = f"http://127.0.0.1:{refusing.port}"
        target = _get("127.0.0.1", server.port)
        what, fix = problem(target, device.around(), Cause.PROXY_REFUSES)
        assert what.endswith(f"opens no way to 127.0.0.1:{server.port}: 407 Who are you")
        assert "CONNECT" in fix
        refusing.join()
        device.options["proxy"] = "ftp://x"
        what, _ = problem(target, device.around(), Cause.PROXY_MALFORMED)
        assert what.startswith("https_proxy: a proxy must be")


def test_proxies_that_are_not_there(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    device.options["proxy"] = f"http://127.0.0.1:{port}"
    what, _ = problem(_get("hub.example", 443), device.around(), Cause.PORT_REFUSED)
    assert what == f"TCP: the proxy 127.0.0.1:{port} refuses the connection"
    device.options["proxy"] = "http://nothing.invalid:3128"
    what, _ = problem(_get("hub.example", 443), device.around(), Cause.NAME_UNKNOWN)
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
        what, _ = problem(_get("hub.example", 443), device.around(), Cause.PROXY_REFUSES)
        thread.join(30)
    assert what == f"the proxy 127.0.0.1:{port} opens no way to hub.example:443: it broke off"


def test_no_way_there(device: Device) -> None:
    # TCP has no way to a group of hosts, whatever the routes of this machine.
    what, fix = problem(_get("224.0.0.1", 443), device.around(), Cause.NO_ROUTE)
    assert what == "TCP: no connection to 224.0.0.1:443: Network is unreachable"
    assert "has a network" in fix
