"""Encryption for modules: what one has sealed only it can open, on this device (edge.md 3.3).

AES-256-GCM. The initialization vector that a module gives is authenticated with its ID and
generation and does not serve as the nonce, so that using one twice gives nothing away.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from muster.ids import Randomness

_VERSION: Final = b"\x01"
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_PURPOSE: Final = b"muster edge: encryption for modules"


@final
class Sealer:
    """Encrypts and decrypts for modules.

    Args:
        master_key: of this device; what was sealed under another one cannot be opened.
        randomness: for nonces.
    """

    def __init__(self, master_key: bytes, randomness: Randomness) -> None:
        self._cipher = AESGCM(hmac.digest(master_key, _PURPOSE, "sha256"))
        self._randomness = randomness

    def seal(self, module_id: str, generation_id: str, vector: bytes, plaintext: bytes) -> bytes:
        """Encrypt.

        Args:
            module_id: whose it is.
            generation_id: of its identity: a module that was made anew opens nothing of before.
            vector: chosen by the module, not empty.
            plaintext: what to encrypt.
        """
        nonce = self._randomness.token_bytes(_NONCE_SIZE)
        bound = _bound(module_id, generation_id, vector)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext, bound)

    def open(self, module_id: str, generation_id: str, vector: bytes, ciphertext: bytes) -> bytes:
        """Decrypt.

        Raises:
            InvalidArgumentError: it was not sealed here for this module and vector, or was
                changed; code `cannot-decrypt`.
        """
        nonce = ciphertext[1 : 1 + _NONCE_SIZE]
        try:
            if ciphertext[:1] == _VERSION and len(ciphertext) > _NONCE_SIZE + _TAG_SIZE:
                bound = _bound(module_id, generation_id, vector)
                return self._cipher.decrypt(nonce, ciphertext[1 + _NONCE_SIZE :], bound)
        except InvalidTag:
            pass
        raise InvalidArgumentError(
            "could not decrypt: not encrypted by this module on this device, or with another "
            "initialization vector",
            code="cannot-decrypt",
        )


def _bound(module_id: str, generation_id: str, vector: bytes) -> bytes:
    # As JSON, so that no two triples look alike.
    return msgspec.json.encode([module_id, generation_id, vector])
