"""Symmetric keys at rest: sealed with one master key that lives outside the database.

AES-256-GCM with a random 96-bit nonce. A sealed value is
`version (1 byte, 1) | nonce (12) | ciphertext and tag`; the version byte is where a later key
rotation hooks in. The context a value is sealed for (say, which enrollment and which field) is
authenticated with it, so that a sealed key copied into another row does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from muster.auth import private_file
from muster.errors import InvalidArgumentError, UnavailableError
from muster.ids import Randomness

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MASTER_KEY_VARIABLE: Final = "MUSTER_MASTER_KEY"
"""Environment variable with the base64 master key; wins over the file."""

MASTER_KEY_SIZE: Final = 32
_VERSION: Final = b"\x01"
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_HEADER_SIZE: Final = len(_VERSION) + _NONCE_SIZE


class Keyring:
    """Seals and opens secrets.

    Args:
        master: 32 bytes.
        source: where the master key came from, for messages: a file name or a variable.
        randomness: source of nonces.
    """

    __slots__ = ("_cipher", "_master", "_randomness", "_source")

    def __init__(
        self,
        master: bytes,
        *,
        source: str = "the master key",
        randomness: Randomness | None = None,
    ) -> None:
        if len(master) != MASTER_KEY_SIZE:
            raise InvalidArgumentError(
                f"The master key in {source} must be {MASTER_KEY_SIZE} bytes long, "
                f"it is {len(master)}",
                code="invalid-master-key",
            )
        self._master = master
        self._source = source
        self._randomness = randomness or Randomness()
        self._cipher = AESGCM(self.subkey("seal"))

    def __repr__(self) -> str:
        return f"Keyring(source={self._source!r})"

    @classmethod
    def load_or_create(
        cls,
        path: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        randomness: Randomness | None = None,
    ) -> Self:
        """Return the keyring of `MUSTER_MASTER_KEY`, else of the file, made when absent.

        Args:
            path: the key file: base64 text, mode 0600.
            environ: where the variable is looked up.
            randomness: source of a new master key and of nonces.

        Raises:
            InvalidArgumentError: the key is malformed (code `invalid-master-key`) or other users
                can read the file (code `exposed-key-file`).
        """
        randomness = randomness or Randomness()
        given = environ.get(MASTER_KEY_VARIABLE)
        if given:
            master = _decode_master(given, f"the environment variable {MASTER_KEY_VARIABLE}")
            return cls(master, source=MASTER_KEY_VARIABLE, randomness=randomness)
        if not path.exists():
            fresh = base64.b64encode(randomness.token_bytes(MASTER_KEY_SIZE)) + b"\n"
            private_file.create(path, fresh, 0o600)
        # Also after creating it: what is in the file counts, whoever was first.
        text = private_file.read_private(path).decode("ascii", errors="replace")
        master = _decode_master(text, f"the file {path}")
        return cls(master, source=str(path), randomness=randomness)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that tell master keys apart and give nothing away.

        Kept with the database, it turns "wrong key file" into a clear refusal at start.
        """
        return self.subkey("fingerprint")[:8].hex()

    def subkey(self, purpose: str) -> bytes:
        """Return 32 secret bytes for one purpose, the same at every start.

        Args:
            purpose: a name no other use has, for example `operation-ids`.
        """
        return hmac.digest(self._master, b"muster " + purpose.encode(), "sha256")

    def seal(self, secret: str, context: str) -> bytes:
        """Encrypt a secret for storage; 29 bytes longer than its UTF-8 form.

        Args:
            secret: what to hide.
            context: what it belongs to; must be given again to open it.
        """
        nonce = self._randomness.token_bytes(_NONCE_SIZE)
        sealed = self._cipher.encrypt(nonce, secret.encode(), context.encode())
        return _VERSION + nonce + sealed

    def open(self, sealed: bytes, context: str) -> str:
        """Decrypt what `seal` made.

        Raises:
            UnavailableError: it was sealed with another master key or for another context, or
                was changed since; code `wrong-master-key`. Or it is not a sealed value that
                this version knows; code `unknown-seal`.
        """
        if len(sealed) < _HEADER_SIZE + _TAG_SIZE or sealed[:1] != _VERSION:
            raise UnavailableError(
                "A stored secret is not in a form this version can open", code="unknown-seal"
            )
        try:
            return self._cipher.decrypt(
                sealed[1:_HEADER_SIZE], sealed[_HEADER_SIZE:], context.encode()
            ).decode()
        except InvalidTag:
            raise UnavailableError(
                f"A stored secret does not open with the master key from {self._source}: it was "
                "sealed with another master key, or the database was changed by hand",
                code="wrong-master-key",
            ) from None


def _decode_master(text: str, source: str) -> bytes:
    try:
        master = binascii.a2b_base64(text.strip(), strict_mode=True)
    except ValueError:
        master = b""
    if len(master) != MASTER_KEY_SIZE:
        raise InvalidArgumentError(
            f"The master key in {source} must be base64 of {MASTER_KEY_SIZE} bytes",
            code="invalid-master-key",
        )
    return master
