"""The last identity of this device, kept for a start without the provisioning service.

It says for which configuration it was given: after a change of endpoint, ID scope or registration
ID it is none, and the device registers anew by itself (users.md, pain 9). It holds no key: those
are in the configuration.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from muster.auth import private_file
from muster.edge import foreign_json
from muster.edge.settings import ManualProvisioning
from muster.edge.upstream.registration import Assignment, registration_id
from muster.errors import InvalidArgumentError
from muster.ids import registration_key

if TYPE_CHECKING:
    from pathlib import Path

    from muster.edge.settings import DpsProvisioning
    from muster.edge.state import StateDirectory

_FILE: Final = "provisioning.json"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds.

    Attributes:
        configuration: `fingerprint` of the configuration that this is the result of.
        assignment: what the device was given.
        replaces: the identity before, while modules of that one may still be on the device.
    """

    configuration: str
    assignment: Assignment
    replaces: Assignment | None = None


def fingerprint(provisioning: DpsProvisioning | ManualProvisioning) -> str:
    """Return what tells one configuration from another, as far as the identity hangs on it.

    A new key for the same registration is no other configuration.

    Raises:
        InvalidArgumentError: see `registration_id`.
    """
    if isinstance(provisioning, ManualProvisioning):
        parts = ["manual", provisioning.hub_host.lower(), provisioning.device_id]
    else:
        parts = [
            *("dps", provisioning.endpoint.lower().rstrip("/"), provisioning.id_scope.lower()),
            registration_key(registration_id(provisioning)),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load(state: StateDirectory) -> Backup | None:
    """Return what was kept last, whichever configuration it is of; `None` for nothing usable."""
    return state.read(_FILE, Backup)


def peek(home: Path) -> Backup | None:
    """Return the same for somebody who only looks: nothing is put aside or made.

    Raises:
        PermissionError: this user may not.
    """
    try:
        return foreign_json.decode(private_file.read_private(home / _FILE), Backup)
    except PermissionError:
        raise
    except (OSError, InvalidArgumentError, foreign_json.ForeignJsonError):
        return None


def save(state: StateDirectory, configuration: str, assignment: Assignment) -> Backup:
    """Keep an assignment.

    Args:
        state: where.
        configuration: `fingerprint` of what it is the result of.
        assignment: see there.

    Raises:
        OSError: it cannot be written.
    """
    kept = load(state)
    before = None if kept is None else kept.replaces or kept.assignment
    if before is not None and same(before, assignment):
        before = None
    backup = Backup(configuration=configuration, assignment=assignment, replaces=before)
    state.write(_FILE, backup)
    return backup


def settle(state: StateDirectory) -> None:
    """Note that nothing of an earlier identity is left on the device.

    Raises:
        OSError: it cannot be written.
    """
    kept = load(state)
    if kept is not None and kept.replaces is not None:
        state.write(_FILE, msgspec.structs.replace(kept, replaces=None))


def same(one: Assignment, other: Assignment) -> bool:
    """Return whether both are the same identity."""
    return (one.hub_host.lower(), one.device_id) == (other.hub_host.lower(), other.device_id)
