"""A whole device at whose hub's address is somebody else for a while (`support.strange_hub`)."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from muster.wire.mqtt.packets import Publish
from support.device import unique
from support.edge_daemon import EdgeDaemon
from support.edge_ledger import DeviceLedger
from support.events import wait_for
from support.secrets import CLOCK
from support.strange_hub import (
    ENDLESS,
    Saying,
    StrangeHub,
    Voice,
    bytes_of,
    endless,
    liar,
    no_tls,
    noise,
    silence,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.instance import Instance

pytestmark = pytest.mark.timeout(400)

PATIENCE_S = 120.0
BOUND = 32 << 20
"""Bytes by which a daemon may grow, whatever it is told; an answer may have 8 MiB."""
DESIRED = "$iothub/twin/PATCH/properties/desired/?$version=9"
OK = b"HTTP/1.1 200 OK\r\n"

MQTT: list[Saying] = [
    liar(b'{"desired":{"schemaVersion":7,"modules":"none","$version":900},"reported":{}}'),
    liar(b'{"desired":{"$version":901},"reported":{"modules":[]}}', Publish(DESIRED, b"[" * 9999)),
    endless(b"\x20\x02\x00\x00\x30\xff\xff\xff\x7f", b"x"),
    bytes_of(b"\x20\x02\x00"),
    noise,
    no_tls,
    bytes_of(b"\x20\x02\x00\x4d"),
    liar(b"null", Publish("$iothub/methods/POST/%2e%2e%2f/?$rid=a/b", b"\xff")),
    silence,
]
"""What a hub says over MQTT that is none."""
HTTPS: list[Saying] = [
    bytes_of(b"HTTP/1.1 401 X\r\nDate: Fri, 01 Jan 1999 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n"),
    bytes_of(b"HTTP/1.1 401 X\r\nDate: Thu, 31 Dec 2099 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n"),
    endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10\r\n0123456789abcdef\r\n"),
    endless(OK, b"X-Nonsense: more\r\n"),
    bytes_of(OK + b"Content-Length: 6\r\n\r\n[{}, 7"),
    bytes_of(OK + b"Content-Le"),
    noise,
    bytes_of(OK + b"Content-Length: 99999999999999999999\r\n\r\n["),
    no_tls,
    bytes_of(b"HTTP/1.1 301 X\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"),
    bytes_of(b"HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nnull"),
]
"""Likewise over HTTPS."""


class Bystander:
    """A device with the two modules of the ledger, whose hub goes and comes."""

    def __init__(self, instance: Instance, daemon: EdgeDaemon) -> None:
        self._instance = instance
        self.daemon = daemon
        self.ledger = DeviceLedger(daemon.directory / "ledger")
        self._device_id = unique("by")
        key, _ = instance.dps.enroll(
            self._device_id,
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        daemon.configure(self._device_id, key)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        self.ledger.deploy(instance, self._device_id)
        self.ledger.wait_accepted(10)
        self.ledger.wait_received()
        self._pids = self.pids()
        assert len(self._pids) == 2

    def pids(self) -> set[int]:
        """Return the processes of the two modules."""
        mark = f"LEDGER={self.ledger.directory}".encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.add(int(path.parent.name))
        return found

    def settle(self) -> None:
        """See that all arrives, the hub being back, and that no module was touched."""
        self._instance.start()
        self.ledger.wait_accepted(10)
        self.ledger.stop()
        losses = 2 + self.daemon.log_text().count("no connection to the hub")
        print(self.ledger.settle(self._instance, self._device_id, losses))
        assert self.pids() == self._pids
        assert self.daemon.end() == 0
        assert "Traceback" not in self.daemon.log_text()


@pytest.fixture
def instance(new_instance: Callable[..., Instance]) -> Instance:
    made = new_instance()
    if made.place.why_not_official is not None:
        pytest.skip(made.place.why_not_official)
    return made


@pytest.fixture
def device(instance: Instance) -> Iterator[Bystander]:
    with EdgeDaemon(instance) as daemon:
        yield Bystander(instance, daemon)


def test_a_hub_that_answers_nonsense(instance: Instance, device: Bystander) -> None:
    files = instance.ca_file.parent
    chain, key = files / "server.pem", files / "server.key"
    before, grown, daemon = device.daemon.resident(), 0, device.daemon.process
    instance.kill9()
    seed = random.randrange(1 << 32)
    # Seen when the test fails. Who lies is first in any case: who is believed is asked for more.
    print(f"seed {seed}")
    order = random.Random(seed)
    https = [HTTPS[0], *order.sample(HTTPS[1:], len(HTTPS) - 1)]
    mqtt = [MQTT[0], *order.sample(MQTT[1:], len(MQTT) - 1)]
    with StrangeHub(instance.place, Voice(chain, key, https), Voice(chain, key, mqtt)) as strange:

        def heard_enough() -> bool:
            nonlocal grown
            grown = max(grown, device.daemon.resident() - before)
            return min(strange.heard.values()) >= 4

        wait_for(heard_enough, PATIENCE_S)
    device.ledger.wait_accepted(10)
    assert grown < BOUND < ENDLESS
    assert daemon is not None
    assert daemon.poll() is None
    device.settle()


# Certificates that are none of the hub's.

DAY = dt.timedelta(days=1)


def voice(instance: Instance, name: str, *, host: str, start: int, own: bool = True) -> Voice:
    """Return who shows a certificate.

    Args:
        instance: whose CA has issued it.
        name: of its files.
        host: it is for.
        start: days from now until it is good, for a year.
        own: whether the CA is that of the instance, which devices trust, or nobody's.
    """
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.load_pem_x509_certificate(instance.ca_file.read_bytes())
    if own:
        loaded = serialization.load_pem_private_key(
            (instance.ca_file.parent / "ca.key").read_bytes(), None
        )
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        ca_key = loaded
    key, begin = ec.generate_private_key(ec.SECP256R1()), CLOCK.now() + start * DAY
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + 365 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    found = Voice(instance.directory / f"{name}.pem", instance.directory / f"{name}.key")
    found.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return found


def see_through(
    instance: Instance, daemon: EdgeDaemon, https: Voice, mqtt: Voice, words: tuple[str, ...]
) -> str:
    """Have a daemon say what is wrong with both; return what `iotedge check` says."""
    begun = len(daemon.log_text())
    with StrangeHub(instance.place, https, mqtt) as strange:
        wait_for(lambda: all(each in daemon.log_text()[begun:] for each in words), PATIENCE_S)
        # Nobody has told them anything.
        assert set(strange.heard.values()) == {0}
        return daemon.iotedge("check", "-c", str(daemon.config)).stdout


def test_a_hub_whose_certificate_is_not_its_own(instance: Instance, device: Bystander) -> None:
    host = instance.place.hubs[0]
    expired = voice(instance, "expired", host=host, start=-400)
    early = voice(instance, "early", host=host, start=30)
    other = voice(instance, "other", host="other.muster.localhost", start=-1)
    foreign = voice(instance, "foreign", host=host, start=-1, own=False)
    instance.kill9()
    words: tuple[str, ...] = ("certificate is not yet valid", "certificate has expired")
    checked = see_through(instance, device.daemon, early, expired, words)
    fixes = ("the certificate of the service must be renewed; else set the clock",)
    assert all(each in checked for each in (*words, *fixes)), checked
    words = ("mismatch", "signature failure")
    checked = see_through(instance, device.daemon, other, foreign, words)
    fixes = ("use a name that the certificate of the service has", "trust_bundle_cert")
    assert all(each in checked for each in (*words, *fixes)), checked
    device.ledger.wait_accepted(10)
    device.settle()
