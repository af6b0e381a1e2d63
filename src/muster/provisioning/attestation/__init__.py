"""How a device proves itself, one file per mechanism."""

from __future__ import annotations

from typing import Final

from muster.errors import InvalidArgumentError
from muster.model.enrollment import ATTESTATION_TYPES, AttestationMechanism
from muster.provisioning.attestation.base import Attestation
from muster.provisioning.attestation.symmetric_key import SymmetricKeyAttestation

__all__ = ["BUILT_IN", "Attestation", "check", "find"]

BUILT_IN: Final[tuple[Attestation, ...]] = (SymmetricKeyAttestation(),)
"""Every mechanism there is. Another one is a file here and its name in this tuple."""


def find(type_: str) -> Attestation | None:
    """Return the mechanism of that type in any case, or `None` where there is none."""
    return next((each for each in BUILT_IN if each.type.lower() == type_.lower()), None)


def check(mechanism: AttestationMechanism) -> None:
    """Check what an operator wrote.

    Raises:
        InvalidArgumentError: the type is unknown (code `invalid-attestation`) or not built yet
            (code `unsupported-attestation`), or its content is malformed.
    """
    found = find(mechanism.type)
    if found is not None:
        mechanism.type = found.type
        found.check(mechanism)
        return
    known = ", ".join(each.type for each in BUILT_IN)
    if mechanism.type.lower() in map(str.lower, ATTESTATION_TYPES):
        raise InvalidArgumentError(
            f"The attestation type '{mechanism.type}' is not supported yet; supported: {known}",
            code="unsupported-attestation",
        )
    raise InvalidArgumentError(
        f"Unknown attestation type '{mechanism.type[:64]}'; supported: {known}",
        code="invalid-attestation",
    )
