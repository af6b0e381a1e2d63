"""Thumbprints of client certificates."""

from __future__ import annotations

import hashlib

import pytest

from muster.auth import thumbprints
from muster.errors import InvalidArgumentError

CERTIFICATE = b"any bytes"
SHA1 = hashlib.sha1(CERTIFICATE, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(CERTIFICATE).hexdigest()


def test_both_are_upper_case_hex() -> None:
    assert thumbprints.of(CERTIFICATE) == (SHA1.upper(), SHA256.upper())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHA1, SHA1),
        (SHA256.upper(), SHA256.upper()),
        (":".join(SHA1[at : at + 2] for at in range(0, 40, 2)), SHA1),
        # As the certificate dialog of Windows copies it.
        ("\u200e" + " ".join(SHA1[at : at + 2] for at in range(0, 40, 2)) + "\n", SHA1),
    ],
)
def test_what_stands_between_the_digits_goes(text: str, expected: str) -> None:
    assert thumbprints.clean(text, "it") == expected


@pytest.mark.parametrize("text", ["", "AB", SHA1[:-1], SHA1 + "0", "g" + SHA1[1:], SHA1 + "-"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="it must be the SHA-1") as caught:
        thumbprints.clean(text, "it")
    assert caught.value.code == "invalid-thumbprint"


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ((SHA1, None), True),
        ((None, SHA256.upper()), True),
        (("0" * 40, SHA1.upper()), True),
        (("0" * 40, "0" * 64), False),
        ((None, None), False),
        (("", ""), False),
        ((SHA256[:40], SHA1 + SHA1[:24]), False),
    ],
)
def test_a_certificate_is_known_by_either(known: tuple[str | None, ...], found: bool) -> None:  # noqa: FBT001
    assert thumbprints.match(thumbprints.of(CERTIFICATE), known) is found
