"""Client certificates: a listener asks for one, requires none, and takes any.

Who may connect with which certificate is decided far above, by thumbprint; here it only matters
that the peer has its private key, which OpenSSL checks in every handshake. Python's `ssl` cannot
say that: where it asks for a certificate, it refuses those that no authority vouches for
(hub-device.md 1.3). So one call goes past it, to the OpenSSL function that replaces the check of
the chain. `trouble` finds out by real handshakes whether that works in this interpreter; nothing
may ask for certificates before it was called (docs/decisions/0020-client-certificates.md).
"""

from __future__ import annotations

import ctypes
import datetime as dt
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_KNOWN_LAYOUTS: Final = ((3, 11), (3, 14))
"""First and last version of CPython in which the context's pointer is known to come first."""
_VERIFY_PEER: Final = 1
_FLIGHTS: Final = 6
"""More than any handshake has."""

_Callback: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
# Kept for as long as the process lives: OpenSSL calls it in handshakes with a certificate.
_take_any: Final = _Callback(lambda _store_context, _argument: 1)


class NoAccessError(Exception):
    """OpenSSL's own context cannot be reached in this interpreter."""


def request(context: ssl.SSLContext) -> None:
    """Have a server's context ask every client for a certificate and take any, or none.

    Args:
        context: to change. It is of no use when this fails.

    Raises:
        NoAccessError: it cannot be done here.
    """
    first, last = _KNOWN_LAYOUTS
    if sys.implementation.name != "cpython" or not first <= sys.version_info[:2] <= last:
        raise NoAccessError(f"Python {sys.version.split()[0]} is not one it was checked with")
    try:
        # What `ssl` itself is linked with, whichever that is.
        openssl = ctypes.CDLL(sys.modules["_ssl"].__file__)
        verify_mode = openssl.SSL_CTX_get_verify_mode
        set_callback = openssl.SSL_CTX_set_cert_verify_callback
    except (OSError, AttributeError) as error:
        raise NoAccessError(str(error)) from None
    verify_mode.argtypes = (ctypes.c_void_p,)
    set_callback.argtypes = (ctypes.c_void_p, _Callback, ctypes.c_void_p)
    set_callback.restype = None
    context.verify_mode = ssl.CERT_OPTIONAL
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if not pointer or verify_mode(pointer) != _VERIFY_PEER:
        raise NoAccessError("OpenSSL's context is not where it was expected")
    set_callback(pointer, _take_any, None)


def trouble() -> str | None:
    """Try it out, without any network, with a certificate that nobody vouches for.

    Returns:
        Why client certificates cannot be used here, `None` when they can.
    """
    with tempfile.TemporaryDirectory() as directory:
        chain = Path(directory) / "throw-away.pem"
        certificate = _make(chain)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(chain)
        try:
            request(server)
        except NoAccessError as error:
            return str(error)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.load_verify_locations(chain)
            # The certificate is as old as it is unknown.
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            client.minimum_version = client.maximum_version = version
            try:
                if _presented(server, client) is not None:
                    return f"a certificate came from nowhere over {version.name}"
                client.load_cert_chain(chain)
                if _presented(server, client) != certificate:
                    return f"the certificate was not handed over with {version.name}"
            except ssl.SSLError as error:
                return f"a handshake with {version.name} failed: {error.reason}"
    return None


def _presented(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """Shake hands in memory; return the certificate the server got (DER)."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(_FLIGHTS):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    return None if waiting else ends[1].getpeercert(binary_form=True)


def _make(chain: Path) -> bytes:
    """Write a key with a certificate that is self-signed and expired; return that (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    chain.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return certificate.public_bytes(serialization.Encoding.DER)
