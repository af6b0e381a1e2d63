"""Whom this device trusts: the system's certificates and its trust bundle's (edge.md 2.7)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from muster.net.dial import client_context

if TYPE_CHECKING:
    from pathlib import Path


def context(
    trust_bundle: Path | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> ssl.SSLContext:
    """Make a TLS context for connections to the hub and the provisioning service.

    Args:
        trust_bundle: PEM file with further CAs.
        certificate: PEM file of a client certificate, leaf first.
        private_key: its PEM file; `None` where it is in the same file.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file holds no certificate, or the key is another one's.
    """
    made = client_context(None)
    _load(made, trust_bundle, certificate, private_key)
    return made


def check(
    trust_bundle: Path | None, certificate: Path | None = None, private_key: Path | None = None
) -> None:
    """See that `context` would work, without its cost; raises like it."""
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_bundle, certificate, private_key)


def _load(
    made: ssl.SSLContext,
    trust_bundle: Path | None,
    certificate: Path | None,
    private_key: Path | None,
) -> None:
    if trust_bundle is not None:
        made.load_verify_locations(trust_bundle)
    if certificate is not None:
        made.load_cert_chain(certificate, private_key)
