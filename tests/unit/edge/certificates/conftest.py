from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from muster.clock import ManualClock
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.certificates.issuance import CertificateIssuer, IssuedCertificate
from muster.edge.settings import EdgeCa
from muster.ids import Randomness

DAY = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_790_000_000.5)


def authority(
    directory: Path, clock: ManualClock, settings: EdgeCa | None = None
) -> DeviceAuthority:
    return DeviceAuthority(
        settings or EdgeCa(), directory, "d1", clock=clock, randomness=Randomness()
    )


def issuer(
    from_: DeviceAuthority, clock: ManualClock, trust_bundle: Path | None = None
) -> CertificateIssuer:
    return CertificateIssuer(
        from_,
        hub_host="hub.example.org",
        device_id="d1",
        trust_bundle=trust_bundle,
        clock=clock,
        randomness=Randomness(),
    )


def handshake(issued: IssuedCertificate, anchors: str, name: str, directory: Path) -> None:
    """Let a strict client speak TLS with a server that has the certificate, now.


    Raises:
        ssl.SSLCertVerificationError: the client does not accept it.
    """
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_text(issued.chain)
    key.write_text(issued.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain, key)
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.load_verify_locations(cadata=anchors)
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = calling.wrap_bio(to_client, to_server, server_hostname=name)
    done = set()
    while len(done) < 2:
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
