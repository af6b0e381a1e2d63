"""Why a signature did not fit: the mistakes people make, tried one after the other.

Runs only after a refusal and off the hot path; tries a bounded number of keys and lets others run
in between. What it finds goes to the decision log, never to the device. Causes are those of public
issue threads (users.md 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple

from muster.auth import symmetric_keys
from muster.auth.sas_token import SasToken, parse, signed_by
from muster.auth.symmetric_keys import SymmetricKeys
from muster.model.decision import Fact
from muster.model.registration import RegistrationRecord
from muster.provisioning.attestation.symmetric_key import SLOTS
from muster.provisioning.authentication import Claim
from muster.provisioning.enrollment_groups import EnrollmentGroups, KnownGroup
from muster.provisioning.enrollments import Enrollments

_MAX_GROUPS: Final = 200
"""Groups that are looked at. A real service has at most 100 (dps.md 5)."""
_NEIGHBOURS: Final = 50
"""Enrollments looked at on either side of the ID: devices get mixed up with those next to them."""
_LINE_ENDS: Final = {
    "\n": "a line feed",
    "\r\n": "a carriage return and a line feed",
    "\r": "a carriage return",
    " ": "a space",
    "\t": "a tab",
    "\0": "a zero byte",
}


class Cause(NamedTuple):
    """A check that explains a wrong signature, with its facts."""

    check: str
    facts: dict[str, Fact]


async def diagnose(claim: Claim, enrollments: Enrollments, groups: EnrollmentGroups) -> Cause:
    """Find out why a token's signature fits nothing.

    Args:
        claim: what the device sent; its token is well-formed.
        enrollments: to look at the device's own, and at those next to it.
        groups: the one it registered through before, then the others.

    Raises:
        UnavailableError: the store cannot be read.
    """
    token, registration_id = parse(claim.token or ""), claim.registration_id
    # The answer goes out first.
    await asyncio.sleep(0)
    enrolled = await enrollments.for_registration(registration_id)
    own = enrolled.stored
    cause = _own_mistake(token, registration_id, own.keys) if own else None
    if cause is not None:
        return cause
    for known in _likely_first(groups, enrolled.record):
        cause = _group_mistake(token, registration_id, known)
        if cause is not None:
            return cause
        if own is not None and _derived(token, known, _as_presented(registration_id)):
            return Cause(
                "barred-by-individual-enrollment",
                {
                    "group": known.group.enrollment_group_id,
                    "status": own.entry.provisioning_status,
                },
            )
        await asyncio.sleep(0)
    for other in await enrollments.neighbours(registration_id, _NEIGHBOURS):
        if _signed_by_either(token, other.keys):
            return Cause("other-enrollment-key", {"other": other.entry.registration_id})
    if own is None and enrolled.record is None:
        return Cause("unknown-registration", {})
    # What it has a record of, it was enrolled for once: a key was changed since.
    group_id = enrolled.record.group_id if enrolled.record else None
    return Cause("wrong-key", {"registered_through": group_id})


def _own_mistake(token: SasToken, registration_id: str, keys: SymmetricKeys) -> Cause | None:
    for slot, text in zip(SLOTS, (keys.primary, keys.secondary), strict=True):
        name: Fact = f"the {slot} key of the individual enrollment"
        if signed_by(token, text.encode()):
            return Cause("key-used-undecoded", {"key": name})
        raw = symmetric_keys.decode(text)
        for spelling in _as_presented(registration_id):
            derived = symmetric_keys.derive(raw, spelling)
            if signed_by(token, derived):
                # An own key needs no derivation: it was taken for a group's.
                return Cause("wrong-key", {"likely": f"a key derived from {name}, as if a group's"})
    return None


def _group_mistake(token: SasToken, registration_id: str, known: KnownGroup) -> Cause | None:
    group: dict[str, Fact] = {"group": known.group.enrollment_group_id}
    presented = _as_presented(registration_id)
    texts = (known.keys.primary, known.keys.secondary)
    for slot, raw, text in zip(SLOTS, known.decoded, texts, strict=True):
        of_slot = {**group, "slot": slot}
        if signed_by(token, raw) or signed_by(token, text.encode()):
            return Cause("group-key-used-directly", of_slot)
        for spelling in presented:
            from_text = symmetric_keys.derive(text.encode(), spelling)
            if signed_by(token, from_text):
                return Cause("derived-from-undecoded-group-key", of_slot)
            derived = symmetric_keys.derive(raw, spelling)
            if any(signed_by(token, each) for each in _undecoded(derived)):
                return Cause(
                    "key-used-undecoded", {"key": f"the key derived from the {slot} key", **group}
                )
    for end, words in _LINE_ENDS.items():
        if _derived(token, known, tuple(spelling + end for spelling in presented)):
            return Cause("derived-with-trailing-newline", {**group, "whitespace": words})
    for spelling in dict.fromkeys(_spellings(registration_id, known.group.enrollment_group_id)):
        if spelling not in presented and _derived(token, known, (spelling,)):
            return Cause("derived-from-other-spelling", {**group, "spelling": spelling})
    return None


def _likely_first(
    groups: EnrollmentGroups, record: RegistrationRecord | None
) -> Iterator[KnownGroup]:
    likely = groups.known(record.group_id) if record and record.group_id else None
    if likely is not None:
        yield likely
    for known in groups.all()[:_MAX_GROUPS]:
        if known is not likely:
            yield known


def _as_presented(registration_id: str) -> tuple[str, ...]:
    """Return the spellings from which a right key may be derived."""
    return tuple(dict.fromkeys((registration_id, registration_id.lower())))


def _undecoded(key: bytes) -> tuple[bytes, ...]:
    """Return the texts of a key that get used in place of its bytes."""
    return symmetric_keys.encode(key).encode(), key.hex().encode()


def _spellings(registration_id: str, group_id: str) -> Iterator[str]:
    yield registration_id.upper()
    yield registration_id.title()
    yield registration_id.capitalize()
    for old, new in (":-", ("-", ":"), (":", ""), ("-", ""), ("-", "_"), ("_", "-")):
        yield registration_id.replace(old, new)
        yield registration_id.replace(old, new).lower()
    yield f" {registration_id}"
    yield f'"{registration_id}"'
    yield f"'{registration_id}'"
    yield group_id
    yield ""


def _derived(token: SasToken, known: KnownGroup, spellings: tuple[str, ...]) -> bool:
    return any(
        signed_by(token, symmetric_keys.derive(raw, spelling))
        for raw in known.decoded
        for spelling in spellings
    )


def _signed_by_either(token: SasToken, keys: SymmetricKeys) -> bool:
    return any(
        signed_by(token, symmetric_keys.decode(key)) for key in (keys.primary, keys.secondary)
    )
