"""What the CA of the device issues to modules and the edge hub, and whom modules trust."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final, final

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.auth import certificate_parts as parts
from muster.edge.certificates.authority import authority_identifier
from muster.edge.identity import container_name
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from muster.clock import Clock
    from muster.edge.certificates.authority import DeviceAuthority
    from muster.ids import Randomness

SERVER_LIFETIME: Final = dt.timedelta(days=30)
IDENTITY_LIFETIME: Final = dt.timedelta(hours=2)
_SHORTEST: Final = dt.timedelta(minutes=5)
_log = structlog.get_logger(__name__)


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its key.

    Attributes:
        chain: PEM, leaf first, the device's CA behind it, no root that is ours.
        key: PEM, PKCS #8.
        starts: when it becomes valid.
        expires: when it ends.
    """

    chain: str
    key: str
    starts: dt.datetime
    expires: dt.datetime

    def __repr__(self) -> str:
        return f"IssuedCertificate(expires={self.expires!r}, key=***)"

    def is_due(self, now: dt.datetime) -> bool:
        """Tell whether a server should present another one: most of its life is over.

        Also when the clock has been set to a time at which it is not valid.
        """
        return not self.starts <= now < self.starts + (self.expires - self.starts) * 0.8


@final
class CertificateIssuer:
    """Issues certificates of this device's modules.

    Args:
        authority: what signs.
        hub_host: of the device's hub.
        device_id: of the device.
        trust_bundle: PEM file of CAs that modules shall trust besides the device's.
        clock: for dates.
        randomness: for serial numbers.
    """

    def __init__(
        self,
        authority: DeviceAuthority,
        *,
        hub_host: str,
        device_id: str,
        trust_bundle: Path | None,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._authority = authority
        self._hub_host = hub_host
        self._device_id = device_id
        self._trust_bundle = trust_bundle
        self._clock = clock
        self._randomness = randomness

    def server(
        self, module_id: str, common_name: str, until: dt.datetime | None = None
    ) -> IssuedCertificate:
        """Issue a server certificate for a name and the module.

        Args:
            module_id: whose it is; a name of it too, without its `$`, where it can be one.
            common_name: host name or IP address.
            until: when it may end; sooner than usual is granted, later is not.

        Raises:
            InvalidArgumentError: the name is none (code `invalid-host-name`), or as `issuer`.
            UnavailableError, OSError: see `DeviceAuthority.issuer`.
        """
        names = parts.general_names([common_name])
        module = container_name(module_id)
        try:
            names += [name for name in parts.general_names([module]) if name not in names]
        except InvalidArgumentError:
            _log.debug("module ID is no host name", module=module_id)
        return self._issue(
            common_name,
            names,
            ExtendedKeyUsageOID.SERVER_AUTH,
            self._end(SERVER_LIFETIME, until),
        )

    def identity(self, module_id: str, until: dt.datetime | None = None) -> IssuedCertificate:
        """Issue a client certificate that names the module.

        Args:
            module_id: whose it is.
            until: as in `server`.

        Raises:
            InvalidArgumentError, UnavailableError, OSError: see `DeviceAuthority.issuer`.
        """
        uri = f"azureiot://{self._hub_host}/devices/{self._device_id}/modules/{module_id}"
        return self._issue(
            module_id,
            [x509.UniformResourceIdentifier(_ascii(uri))],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            self._end(IDENTITY_LIFETIME, until),
        )

    def trust_bundle(self) -> str:
        """Return PEM of all that modules shall trust.

        Raises:
            InvalidArgumentError, UnavailableError, OSError: see `DeviceAuthority.issuer`; the
                bundle of the configuration cannot be read.
        """
        found = self._authority.issuer().anchors
        if self._trust_bundle is not None:
            found = found.rstrip(b"\n") + b"\n" + self._trust_bundle.read_bytes()
        return found.decode("ascii", "replace")

    def _end(self, most: dt.timedelta, until: dt.datetime | None) -> dt.datetime:
        now = self._clock.now()
        end = now + most
        # A module whose clock is wrong asks for the past; the official daemon never listens.
        return until if until is not None and now + _SHORTEST <= until < end else end

    def _issue(
        self,
        common_name: str,
        names: Iterable[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        end: dt.datetime,
    ) -> IssuedCertificate:
        issuer = self._authority.issuer()
        start = max(self._clock.now() - parts.BACKDATED, issuer.certificate.not_valid_before_utc)
        end = min(end, issuer.certificate.not_valid_after_utc)
        key = ec.generate_private_key(ec.SECP256R1())
        public_key = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(parts.name(common_name[: parts.MAX_COMMON_NAME]))
            .issuer_name(issuer.certificate.subject)
            .public_key(public_key)
            .serial_number(parts.serial_number(self._randomness))
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(parts.key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(authority_identifier(issuer.certificate), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        return IssuedCertificate(
            chain=(parts.certificate_pem(certificate) + issuer.chain).decode("ascii", "replace"),
            key=parts.key_pem(key).decode(),
            starts=certificate.not_valid_before_utc,
            expires=certificate.not_valid_after_utc,
        )


def _ascii(uri: str) -> str:
    return "".join(each if each.isascii() else "%3F" for each in uri)
