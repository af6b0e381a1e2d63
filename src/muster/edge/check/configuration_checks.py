"""Checks of what is on the device: configuration, daemon, engine, certificates, disk, names."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from muster import __version__
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.check.engine import EngineConnection
from muster.edge.check.outcome import (
    IGNORED,
    OK,
    DaemonAwayError,
    Outcome,
    Problem,
    Result,
    warning,
)
from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import load
from muster.edge.local_api.sockets import path_of
from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    TpmAttestation,
    X509Attestation,
)
from muster.errors import MusterError
from muster.ids import Randomness

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_SOON: Final = timedelta(days=7)
_LEAST_FREE: Final = 200 * 1024 * 1024
"""Bytes below which queues, logs and images soon have no room."""
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_VOLATILE: Final = ("tmpfs", "ramfs", "overlay")


def well_formed(around: Surroundings) -> Outcome:
    """Read the configuration as the daemon does."""
    try:
        around.configuration = load(around.options.config_file)
    except ConfigurationError as error:
        if os.strerror(errno.EACCES) in error.message:
            raise Problem(error.message, "try again with sudo", Result.FATAL) from None
        raise Problem(
            error.message,
            "correct that line, or write the file anew: iotedge config dps --help",
            Result.FATAL,
        ) from None
    provisioning = around.settings.provisioning
    if provisioning is None:
        raise Problem(
            f"{around.options.config_file}: provisioning.source: a device without a hub has no "
            "modules",
            "iotedge config dps, or iotedge config mp",
            Result.FATAL,
        )
    if isinstance(provisioning, DpsProvisioning) and isinstance(
        provisioning.attestation, TpmAttestation
    ):
        raise Problem(
            "provisioning.attestation: keys of a TPM cannot be used by this runtime",
            "enroll the device with a symmetric key or a certificate",
            Result.FATAL,
        )
    exposed = [note for note in around.configuration.notices if "chmod 600" in note]
    if exposed:
        raise warning(exposed[0], f"chmod 600 '{around.options.config_file}'")
    return OK


def up_to_date(around: Surroundings) -> Outcome:
    """See that the daemon runs with the file as it is now."""
    uptime = _ask(around, "/systeminfo/resources")["process_uptime"]
    began = around.clock.time() - uptime
    if around.options.config_file.stat().st_mtime > began + 1:
        raise warning(
            f"{around.options.config_file} was changed after the daemon had read it",
            "sudo iotedge config apply",
        )
    return OK


def container_engine(around: Surroundings) -> Outcome:
    """Ask the container engine for its version."""
    uri = around.settings.engine.uri
    if uri.startswith("unix:") and not path_of(uri).exists():
        raise warning(
            f"there is no container engine at {uri}: only modules of type `process` can run",
            "install one (on Debian: apt install docker.io), or set moby_runtime.uri to its socket",
        )
    connection = EngineConnection(uri)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())
        return Outcome(result=Result.OK, facts={"engine_version": str(version["Version"])})
    except PermissionError:
        raise Problem(
            f"the container engine at {uri} may not be used: permission denied",
            "run the daemon, and this command, as root or as a member of the group docker",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise Problem(
            f"the container engine at {uri} does not answer: {error}",
            "sudo systemctl start docker",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise Problem(
            f"what answers at {uri} is no container engine",
            "set moby_runtime.uri to the socket of the engine",
        ) from None
    finally:
        connection.close()


def engine_logs(around: Surroundings) -> Outcome:
    """See that logs of containers do not fill the disk."""
    found = _engine_file(around)
    if found is None:
        return IGNORED
    driver = found.get("log-driver", "json-file")
    if driver == "json-file" and not found.get("log-opts", {}).get("max-size"):
        raise warning(
            f"logs of containers grow without bound: {around.options.engine_file} sets no limit",
            'put {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}} '
            "into it, and restart the engine",
        )
    return OK


def engine_dns(around: Surroundings) -> Outcome:
    """See that containers have a DNS server of their own."""
    found = _engine_file(around)
    if found is None:
        return IGNORED
    if not found.get("dns"):
        raise warning(
            f"containers use the DNS server of this device: {around.options.engine_file} sets none",
            'where that server cannot be reached from containers, put {"dns": ["<address>"]} into '
            "the file, and restart the engine",
        )
    return OK


def engine_ipv6(around: Surroundings) -> Outcome:
    """See that the engine has the IPv6 that the network of modules wants."""
    found = _engine_file(around)
    if found is None or not around.settings.engine.network.ipv6:
        return IGNORED
    if not found.get("ipv6"):
        raise warning(
            f"moby_runtime.network.ipv6 is true, and {around.options.engine_file} has no IPv6",
            'put {"ipv6": true, "fixed-cidr-v6": "<prefix>/64"} into the file, and restart the '
            "engine; or take ipv6 out",
        )
    return OK


def host_name(around: Surroundings) -> Outcome:
    """Compare the configured name with the machine's."""
    configured = around.settings.hostname
    machine = socket.gethostname()
    bare = configured.lower()
    if bare != machine.lower() and not bare.startswith(f"{machine.lower()}."):
        raise warning(
            f"hostname is {configured}, and this machine is called {machine}",
            f"see that leaf devices can resolve {configured} to this device, or set hostname to "
            f"{machine}",
        )
    if not all(_LABEL.fullmatch(label) for label in configured.split(".")):
        raise warning(
            f"hostname {configured} is no name by RFC 1035: some clients cannot connect to it",
            "use letters, digits and hyphens, at most 63 between dots",
        )
    return OK


def management(around: Surroundings) -> Outcome:
    """Ask the daemon who it is."""
    return Outcome(
        result=Result.OK, facts={"daemon_version": _ask(around, "/systeminfo")["version"]}
    )


def daemon_version(around: Surroundings) -> Outcome:
    """Compare the daemon's version with that of this command."""
    running = _ask(around, "/systeminfo")["version"]
    expected = around.options.expected_version or __version__
    if running != expected:
        raise warning(
            f"the daemon is version {running}, expected is {expected}",
            "sudo iotedge system restart, after an upgrade; else install the expected version",
        )
    return OK


def identity_certificate(around: Surroundings) -> Outcome:
    """Look at the device's own certificate, where it has one."""
    given = around.settings.provisioning
    proof: Any = given.attestation if isinstance(given, DpsProvisioning) else given
    if not isinstance(proof, X509Attestation | ManualProvisioning) or proof.certificate is None:
        return IGNORED
    try:
        found = x509.load_pem_x509_certificates(proof.certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise Problem(
            f"identity_cert {proof.certificate} cannot be used: {error}",
            "put the device's certificate there, PEM, its own first",
        ) from None
    return _lifetime(
        around, found, f"the device's certificate {proof.certificate}", "get a new one"
    )


def edge_ca(around: Surroundings) -> Outcome:
    """Use the device's CA as the daemon does, where it was brought."""
    settings = around.settings
    if settings.edge_ca.certificate is None:
        return IGNORED
    authority = DeviceAuthority(
        settings.edge_ca,
        settings.home / "certificates",
        "",
        clock=around.clock,
        randomness=Randomness(),
    )
    try:
        issuer = authority.issuer()
    except (MusterError, OSError) as error:
        raise Problem(
            f"edge_ca: {error}",
            "correct edge_ca.cert and edge_ca.pk, or take both out: the device makes a CA then",
        ) from None
    return _lifetime(around, issuer.certificate, "the CA of edge_ca", "get a new one")


def trust_bundle(around: Surroundings) -> Outcome:
    """Read the trust bundle."""
    path = around.settings.trust_bundle
    if path is None:
        return IGNORED
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Problem(
            f"trust_bundle_cert {path} cannot be used: {getattr(error, 'strerror', None) or error}",
            "put PEM certificates there, or take trust_bundle_cert out",
        ) from None
    return OK


def storage(around: Surroundings) -> Outcome:
    """See that state survives, and that there is room for it."""
    home = around.settings.home
    if not home.exists():
        raise Problem(
            f"the directory of all state, {home}, is not there",
            "start the daemon, which makes it: sudo iotedge system restart",
        )
    kind = _file_system(home)
    if kind in _VOLATILE:
        raise warning(
            f"{home} is on {kind}: identity, deployment and messages are lost when the power goes",
            "set homedir to a directory on a disk",
        )
    free = shutil.disk_usage(home).free
    if free < _LEAST_FREE:
        raise Problem(
            f"{home} has {free // 1_048_576} MB left, less than {_LEAST_FREE // 1_048_576} MB",
            "make room: docker system prune, or a lower storeLimits.maxBytes of $edgeHub",
        )
    if not os.access(home, os.W_OK):
        raise Problem(
            f"{home} cannot be written by this user",
            "try again with sudo; if it stays so, the disk is mounted read-only",
        )
    return Outcome(result=Result.OK, facts={"free_bytes": free})


def _ask(around: Surroundings, path: str) -> Any:
    try:
        return around.ask(path)
    except DaemonAwayError as error:
        raise Problem(
            f"the daemon does not answer: {error}",
            "sudo iotedge system restart; iotedge system logs says why it ended",
        ) from None


def _lifetime(around: Surroundings, certificate: x509.Certificate, what: str, fix: str) -> Outcome:
    now, end = around.clock.now(), certificate.not_valid_after_utc
    if now >= end:
        raise Problem(f"{what} ended on {end:%Y-%m-%d}", fix)
    if now < certificate.not_valid_before_utc:
        raise Problem(
            f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d} on",
            "see that the clock of this device is right: date -u",
        )
    if end - now < _SOON:
        raise warning(f"{what} ends on {end:%Y-%m-%d}", fix)
    return OK


def _engine_file(around: Surroundings) -> dict[str, Any] | None:
    """Return the engine's configuration; `None` where there is no engine."""
    uri = around.settings.engine.uri
    if uri.startswith("unix:") and not path_of(uri).exists():
        return None
    path = around.options.engine_file
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Problem(
            f"{path} cannot be read: {error}", "correct it; the engine reads it, too"
        ) from (None)
    return found if isinstance(found, dict) else {}


def _file_system(home: Path) -> str:
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
        _, place, found = line.split(" ")[:3]
        if (str(home) + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(best):
            best, kind = place, found
    return kind
