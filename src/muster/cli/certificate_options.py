"""Options that register the client certificates of a device or module."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from muster.auth import thumbprints
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_FILE: Final = click.Path(path_type=Path)
_BEGIN_PEM: Final = b"-----BEGIN "


def certificate_options(command: F) -> F:
    """Add the ways to name certificates; they come as `prints`, by their names on the wire.

    A thumbprint that is taken away is there with `None`; one that was not mentioned is not.
    """

    @click.option(
        "--thumbprint",
        metavar="HEX",
        help="Authenticate with the client certificate that has this SHA-1 or SHA-256 thumbprint.",
    )
    @click.option(
        "--secondary-thumbprint",
        metavar="HEX",
        help="A second certificate that is as good; '' takes it away.",
    )
    @click.option(
        "--certificate",
        type=_FILE,
        metavar="FILE",
        help="Read the thumbprint off a certificate, PEM or DER.",
    )
    @click.option(
        "--secondary-certificate",
        type=_FILE,
        metavar="FILE",
        help="Likewise for the second certificate.",
    )
    @functools.wraps(command)
    def run(
        *args: Any,
        thumbprint: str | None,
        secondary_thumbprint: str | None,
        certificate: Path | None,
        secondary_certificate: Path | None,
        **options: Any,
    ) -> Any:
        given = {
            "primaryThumbprint": _thumbprint(thumbprint, certificate, "--thumbprint"),
            "secondaryThumbprint": _thumbprint(
                secondary_thumbprint, secondary_certificate, "--secondary-thumbprint"
            ),
        }
        prints = {name: text or None for name, text in given.items() if text is not None}
        if prints and any(
            options.get(name) for name in ("primary_key", "secondary_key", "key_file")
        ):
            raise click.UsageError("Give keys or certificates: an identity has one or the other.")
        return command(*args, prints=prints, **options)

    return cast("F", run)


def _thumbprint(text: str | None, file: Path | None, option: str) -> str | None:
    if file is not None:
        if text is not None:
            raise click.UsageError(f"Give {option} or the certificate's file, not both.")
        return _of_file(file)
    if not text:
        return text
    try:
        return thumbprints.clean(text, option)
    except InvalidArgumentError as error:
        raise click.UsageError(f"{error.message}.") from None


def _of_file(file: Path) -> str:
    """Return the SHA-256 thumbprint of the first certificate in a file."""
    # Not at the top: it is slow to import, and few commands read a certificate.
    from cryptography import x509  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - slow to import

    try:
        data = file.read_bytes()
        load = (
            x509.load_pem_x509_certificate if _BEGIN_PEM in data else x509.load_der_x509_certificate
        )
        certificate = load(data)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise click.UsageError(f"{file} holds no certificate, PEM or DER.") from None
    return thumbprints.of(certificate.public_bytes(Encoding.DER)).sha256
