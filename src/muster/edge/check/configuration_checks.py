"""Checks of the configuration, and of the directory of all state."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, OK, Outcome, Problem, Result, skipped, warning
from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import load
from muster.edge.settings import DpsProvisioning, TpmAttestation

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_LEAST_FREE: Final = 200 * 1024 * 1024
"""Bytes below which queues, logs and images soon have no room."""
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DAEMON: Final = "connect-management-uri"
_VOLATILE: Final = ("tmpfs", "ramfs", "overlay")


def well_formed(around: Surroundings) -> Outcome:
    """Read the configuration as the daemon does."""
    file = around.options.config_file
    try:
        around.configuration = load(file)
    except ConfigurationError as error:
        raise _unusable(file, error) from None
    provisioning = around.settings.provisioning
    if provisioning is None:
        raise Problem(
            Cause.CONFIGURATION_WITHOUT_HUB,
            f"{file}: provisioning.source: a device without a hub has no modules",
            "iotedge config dps, or iotedge config mp",
            Result.FATAL,
        )
    if isinstance(provisioning, DpsProvisioning) and isinstance(
        provisioning.attestation, TpmAttestation
    ):
        raise Problem(
            Cause.CONFIGURATION_OF_TPM,
            "provisioning.attestation: keys of a TPM cannot be used by this runtime",
            "enroll the device with a symmetric key or a certificate",
            Result.FATAL,
        )
    exposed = [note for note in around.configuration.notices if "chmod 600" in note]
    if exposed:
        raise warning(Cause.CONFIGURATION_EXPOSED, exposed[0], f"chmod 600 '{file}'")
    return OK


def _unusable(file: Path, error: ConfigurationError) -> Problem:
    if os.strerror(errno.EACCES) in error.message:
        return Problem(
            Cause.CONFIGURATION_UNREADABLE, error.message, "try again with sudo", Result.FATAL
        )
    if not file.exists():
        return Problem(
            Cause.CONFIGURATION_MISSING,
            error.message,
            "write one: iotedge config dps --help; another place is named with --config-file",
            Result.FATAL,
        )
    return Problem(
        Cause.CONFIGURATION_WRONG,
        error.message,
        "correct that line, or write the file anew: iotedge config dps --help",
        Result.FATAL,
    )


def host_name(around: Surroundings) -> Outcome:
    """Compare the configured name with the machine's."""
    configured = around.settings.hostname
    machine = socket.gethostname()
    bare = configured.lower()
    if bare != machine.lower() and not bare.startswith(f"{machine.lower()}."):
        raise warning(
            Cause.HOSTNAME_DIFFERS,
            f"hostname is {configured}, and this machine is called {machine}",
            f"see that leaf devices can resolve {configured} to this device, or set hostname to "
            f"{machine}",
        )
    if not _is_name(configured):
        raise warning(
            Cause.HOSTNAME_MALFORMED,
            f"hostname {configured} is no name by RFC 1035: some clients cannot connect to it",
            "use letters, digits and hyphens, at most 63 between dots",
        )
    return OK


def parent_name(around: Surroundings) -> Outcome:
    """See that the device above has a name that can be one, where there is one."""
    configured = around.settings.parent_hostname
    if configured is None:
        return IGNORED
    if not _is_name(configured):
        raise warning(
            Cause.PARENT_MALFORMED,
            f"parent_hostname {configured} is no name by RFC 1035: the device above cannot have a "
            "certificate that everybody accepts",
            "use letters, digits and hyphens, at most 63 between dots, there and here",
        )
    return OK


def _is_name(text: str) -> bool:
    return all(_LABEL.fullmatch(label) for label in text.split("."))


def storage(around: Surroundings) -> Outcome:
    """See that state survives, and that there is room for it."""
    home = around.settings.home
    try:
        is_there = home.exists()
    except PermissionError:
        raise _not_writable(home) from None
    if not is_there:
        raise Problem(
            Cause.HOME_MISSING,
            f"the directory of all state, {home}, is not there",
            "start the daemon, which makes it: sudo iotedge system restart",
            # Of a daemon that does not run it is no news.
            Result.SKIPPED if _DAEMON in around.failed else Result.ERROR,
        )
    if not os.access(home, os.W_OK, effective_ids=True):
        raise _not_writable(home)
    free = shutil.disk_usage(home).free
    if free < _LEAST_FREE:
        raise Problem(
            Cause.HOME_FULL,
            f"{home} has {free // 1_048_576} MB left, less than {_LEAST_FREE // 1_048_576} MB",
            "make room: docker system prune, or a lower storeLimits.maxBytes of $edgeHub",
        )
    kind = _file_system(home)
    if kind in _VOLATILE:
        raise warning(
            Cause.HOME_VOLATILE,
            f"{home} is on {kind}: identity, deployment and messages are lost when the power goes",
            "set homedir to a directory on a disk",
        )
    return Outcome(result=Result.OK, facts={"free_bytes": free})


def _not_writable(home: Path) -> Problem:
    if os.geteuid() != 0:
        return skipped(
            Cause.HOME_OF_ANOTHER,
            f"{home} cannot be written by this user; whether the daemon can, only root can tell",
            "try again with sudo",
        )
    return Problem(
        Cause.HOME_READ_ONLY,
        f"{home} cannot be written",
        "its disk is mounted read-only, often because it has failed: dmesg says why",
    )


def _file_system(home: Path) -> str:
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
        _, place, found = line.split(" ")[:3]
        if (str(home) + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(best):
            best, kind = place, found
    return kind
