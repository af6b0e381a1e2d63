"""What checks look at, with the parts a test breaks."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from muster.clock import ManualClock, SystemClock
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.certificates.issuance import CertificateIssuer
from muster.edge.check.outcome import DaemonAwayError, Outcome, Problem, Result
from muster.edge.check.surroundings import Options, Surroundings
from muster.edge.configuration.load import load
from muster.edge.settings import EdgeCa
from muster.ids import Randomness

KEY = "c2l4dGVlbiBieXRlcyBvciBtb3Jl"
MANUAL = (
    'homedir = "{home}"\n[provisioning]\nsource = "manual"\n'
    f'connection_string = "HostName=127.0.0.1;DeviceId=d1;SharedAccessKey={KEY}"\n'
)


class Device:
    """A device whose configuration is a file, and whose daemon says what it is told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.file = directory / "config.toml"
        self.clock = ManualClock(SystemClock().time())
        self.says: dict[str, Any] = {
            "/systeminfo": {"version": "1"},
            "/systeminfo/resources": {"process_uptime": 0},
        }
        self.environment: dict[str, str] = {}
        self.daemon_environment: dict[str, str] = {}
        self.options: dict[str, Any] = {"expected_version": "1"}
        self.write()

    def write(self, more: str = "", base: str = MANUAL) -> None:
        self.file.write_text(base.replace("{home}", str(self.home)) + more)
        self.file.chmod(0o600)

    def ask(self, path: str) -> Any:
        found = self.says.get(path)
        if found is None:
            raise DaemonAwayError("nobody listens")
        return found

    def around(self, *, read: bool = True) -> Surroundings:
        engine_file = self.directory / "daemon.json"
        made = Surroundings(
            options=Options(
                **{"config_file": self.file, "engine_file": engine_file, **self.options}
            ),
            ask=self.ask,
            daemon_environment=lambda: self.daemon_environment,
            environment=self.environment,
            clock=self.clock,
        )
        if read:
            made.configuration = load(self.file)
        return made


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def problem(check: Any, around: Surroundings, result: Result = Result.ERROR) -> tuple[str, str]:
    """Return what a check says is wrong, and the fix."""
    with pytest.raises(Problem) as caught:
        check(around)
    outcome = caught.value.outcome
    assert outcome.result is result, outcome
    what, fix = outcome.details
    assert fix.startswith("Fix: ")
    assert KEY not in what + fix
    return what, fix.removeprefix("Fix: ")


def fine(check: Any, around: Surroundings) -> Outcome:
    outcome: Outcome = check(around)
    assert outcome.result is Result.OK, outcome
    return outcome


class TlsServer:
    """Answers every connection with some bytes.

    Attributes:
        port: of it.
        ca: PEM file of what clients must trust.
    """

    def __init__(self, directory: Path, name: str, *, shift_s: float = 0.0) -> None:
        clock = ManualClock(SystemClock().time() + shift_s)
        authority = DeviceAuthority(
            EdgeCa(), directory / "ca", "server", clock=clock, randomness=Randomness()
        )
        issuer = CertificateIssuer(
            authority,
            hub_host="h",
            device_id="server",
            trust_bundle=None,
            clock=clock,
            randomness=Randomness(),
        )
        issued = issuer.server("server", name)
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_text(issued.chain)
        key.write_text(issued.key)
        self.context: ssl.SSLContext | None = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain, key)
        self.ca = directory / "server-ca.pem"
        self.ca.write_text(issuer.trust_bundle())
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            accepted.settimeout(30)
            try:
                if self.context is None:
                    accepted.recv(1000)
                    accepted.sendall(self.answer)
                else:
                    with self.context.wrap_socket(accepted, server_side=True) as secured:
                        _read_request(secured)
                        secured.sendall(self.answer)
            except OSError:
                pass
            finally:
                accepted.close()


def _read_request(secured: ssl.SSLSocket) -> None:
    received = b""
    while b"\r\n\r\n" not in received and (data := secured.recv(10_000)):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    missing = int(length or 0) - len(body)
    while missing > 0 and (data := secured.recv(10_000)):
        missing -= len(data)


@contextmanager
def tls_server(directory: Path, name: str = "127.0.0.1", **options: Any) -> Iterator[TlsServer]:
    server = TlsServer(directory, name, **options)
    try:
        yield server
    finally:
        server.close()
