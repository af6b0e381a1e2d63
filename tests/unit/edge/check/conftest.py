"""What checks look at, with the parts a test breaks: files, sockets, processes, certificates.

The clock alone is not the machine's, which is not a test's to set.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.clock import ManualClock, SystemClock
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.certificates.issuance import CertificateIssuer
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import Outcome, Problem, Result
from muster.edge.check.surroundings import Options, Surroundings
from muster.edge.cli.check import surroundings
from muster.edge.configuration.load import load
from muster.edge.settings import EdgeCa
from muster.ids import Randomness

KEY = "c2l4dGVlbiBieXRlcyBvciBtb3Jl"
MANUAL = (
    'homedir = "{home}"\n[provisioning]\nsource = "manual"\n'
    f'connection_string = "HostName=127.0.0.1;DeviceId=d1;SharedAccessKey={KEY}"\n'
)
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
# Listens where a daemon would, for checks that look at the process and ask it nothing.
_LISTENER = """\
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
os.chmod(sys.argv[1], int(sys.argv[2], 8))
listening.listen()
print("ready", flush=True)
while True:
    listening.accept()[0].close()
"""


class Device:
    """A device: its directory, which everybody may look into, and the clock it believes in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.file = directory / "config.toml"
        self.socket = directory / "mgmt.sock"
        self.clock = ManualClock(SystemClock().time())
        self.environment: dict[str, str] = {}
        self.options: dict[str, Any] = {}
        self.write()

    def write(self, more: str = "", base: str = MANUAL, top: str = "") -> None:
        """Write the configuration: top-level keys, the base, and tables."""
        listen = f'\n[listen]\nmanagement_uri = "unix://{self.socket}"\n'
        self.file.write_text(top + base.replace("{home}", str(self.home)) + more + listen)
        self.file.chmod(0o600)

    @contextlib.contextmanager
    def listener(self, mode: int = 0o666, **environment: str) -> Iterator[None]:
        """Have another process listen on the management socket."""
        command = [sys.executable, "-c", _LISTENER, str(self.socket), f"{mode:o}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, **environment}
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield
            finally:
                process.terminate()
        self.socket.unlink()

    def around(self, *, read: bool = True) -> Surroundings:
        engine_file = self.directory / "daemon.json"
        given = {"config_file": self.file, "engine_file": engine_file, **self.options}
        made = surroundings(f"unix://{self.socket}", Options(**given))
        made.clock = self.clock
        made.environment = self.environment
        if read:
            made.configuration = load(self.file)
        return made


@pytest.fixture
def device() -> Iterator[Device]:
    """Return a device in a directory with a short name, which paths of sockets need."""
    directory = Path(tempfile.mkdtemp(prefix="checked-"))
    directory.chmod(0o755)
    yield Device(directory)
    shutil.rmtree(directory)


def problem(
    check: Any, around: Surroundings, cause: Cause, result: Result = Result.ERROR
) -> tuple[str, str]:
    """Return what a check says is wrong, and the fix; its cause and result are as given."""
    with pytest.raises(Problem) as caught:
        check(around)
    outcome = caught.value.outcome
    assert (outcome.cause, outcome.result) == (cause, result), outcome
    what, fix = outcome.details
    assert fix.startswith("Fix: ")
    assert KEY not in what + fix
    return what, fix.removeprefix("Fix: ")


def fine(check: Any, around: Surroundings) -> Outcome:
    outcome: Outcome = check(around)
    assert outcome.result is Result.OK, outcome
    return outcome


@contextlib.contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listen, and answer nobody."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening
    path.unlink()


@contextlib.contextmanager
def unix_server(path: Path, answer: bytes | None) -> Iterator[None]:
    """Answer one request over HTTP; with `None`, hang up."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    with unix_socket(path) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            accepted.recv(10_000)
            accepted.sendall(b"" if answer is None else head + answer)
            accepted.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(30)


class TlsServer:
    """Answers every connection with some bytes.

    Args:
        directory: for its files.
        name: of its certificate.
        shift_s: by which it lives later than this machine.
        address: to listen on.
        port: likewise; 0 for any.

    Attributes:
        port: of it.
        ca: PEM file of what clients must trust.
        requests: heads of what was asked.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        shift_s: float = 0.0,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
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
        self.requests: list[bytes] = []
        self._listening = socket.create_server((address, port))
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
                        self.requests.append(_read_request(secured))
                        secured.sendall(self.answer)
            except OSError:
                pass
            finally:
                accepted.close()


def _read_request(secured: ssl.SSLSocket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received and (data := secured.recv(10_000)):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    missing = int(length or 0) - len(body)
    while missing > 0 and (data := secured.recv(10_000)):
        missing -= len(data)
    return head


@contextlib.contextmanager
def tls_server(directory: Path, name: str = "127.0.0.1", **options: Any) -> Iterator[TlsServer]:
    directory.mkdir(exist_ok=True)
    server = TlsServer(directory, name, **options)
    try:
        yield server
    finally:
        server.close()
