"""Why a signature did not fit: the mistakes people make, tried one after the other.

Runs only after a refusal and off the hot path; tries a bounded number of keys. What it finds goes
to the decision log, never to the device. Causes are those of public issue threads (users.md 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from muster.auth import symmetric_keys
from muster.auth.sas_token import SasToken, parse, signed_by
from muster.model.decision import Fact
from muster.provisioning.attestation.symmetric_key import SLOTS
from muster.provisioning.authentication import Claim
from muster.provisioning.enrollment_groups import EnrollmentGroups, KnownGroup
from muster.provisioning.enrollments import Enrollments

_MAX_GROUPS: Final = 200
_LINE_ENDS: Final = {
    "\n": "a line feed",
    "\r\n": "a carriage return and a line feed",
    "\r": "a carriage return",
    " ": "a space",
}


class Cause(NamedTuple):
    """A check that explains a wrong signature, with its facts."""

    check: str
    facts: dict[str, Fact]


async def diagnose(claim: Claim, enrollments: Enrollments, groups: EnrollmentGroups) -> Cause:
    """Find out why a token's signature fits nothing.

    Args:
        claim: what the device sent; its token is well-formed.
        enrollments: to look at the device's own.
        groups: all of them are tried.
    """
    token = parse(claim.token or "")
    stored = await enrollments.find(claim.registration_id)
    if stored is not None:
        for slot, key in zip(SLOTS, (stored.keys.primary, stored.keys.secondary), strict=True):
            if signed_by(token, key.encode()):
                return Cause(
                    "key-used-undecoded", {"key": f"the {slot} key of the individual enrollment"}
                )
    for known in groups.all()[:_MAX_GROUPS]:
        cause = _group_mistake(token, claim.registration_id, known)
        if cause is not None:
            return cause
        if stored is not None and _derived(token, known, [claim.registration_id]):
            return Cause(
                "other-enrollment-key",
                {
                    "other": f"group {known.group.enrollment_group_id}, which the individual "
                    "enrollment of this ID bars"
                },
            )
    return Cause("wrong-key" if stored else "unknown-registration", {})


def _group_mistake(token: SasToken, registration_id: str, known: KnownGroup) -> Cause | None:
    group: dict[str, Fact] = {"group": known.group.enrollment_group_id}
    texts = (known.keys.primary, known.keys.secondary)
    for slot, raw, text in zip(SLOTS, known.decoded, texts, strict=True):
        of_slot = {**group, "slot": slot}
        if signed_by(token, raw) or signed_by(token, text.encode()):
            return Cause("group-key-used-directly", of_slot)
        if signed_by(token, symmetric_keys.derive(text.encode(), registration_id)):
            return Cause("derived-from-undecoded-group-key", of_slot)
        for spelling in (registration_id, registration_id.lower()):
            derived = symmetric_keys.encode(symmetric_keys.derive(raw, spelling))
            if signed_by(token, derived.encode()):
                return Cause(
                    "key-used-undecoded", {"key": f"the key derived from the {slot} key", **group}
                )
    for end, words in _LINE_ENDS.items():
        if _derived(token, known, [registration_id + end]):
            return Cause("derived-with-trailing-newline", {**group, "whitespace": words})
    for spelling in _spellings(registration_id, known.group.enrollment_group_id):
        if _derived(token, known, [spelling]):
            return Cause("derived-from-other-spelling", {**group, "spelling": spelling})
    return None


def _spellings(registration_id: str, group_id: str) -> Iterator[str]:
    yield registration_id.upper()
    yield registration_id.title()
    yield registration_id.capitalize()
    yield registration_id.replace(":", "-")
    yield registration_id.replace(":", "")
    yield registration_id.replace("-", "")
    yield registration_id.replace("-", "_")
    yield f'"{registration_id}"'
    yield group_id
    yield ""


def _derived(token: SasToken, known: KnownGroup, spellings: list[str]) -> bool:
    return any(
        signed_by(token, symmetric_keys.derive(raw, spelling))
        for raw in known.decoded
        for spelling in spellings
    )
