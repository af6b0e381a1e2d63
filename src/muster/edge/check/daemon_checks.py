"""Checks of the running daemon and its edge hub."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from muster import __version__
from muster.edge import foreign_json
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import (
    IGNORED,
    OK,
    DaemonAwayError,
    Outcome,
    Problem,
    Result,
    skipped,
    warning,
)
from muster.edge.configuration import applied
from muster.edge.identity import HUB, container_name
from muster.edge.local_api.sockets import path_of

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_EDGE_HUB: Final = container_name(HUB)
T = TypeVar("T")


class _SystemInfo(msgspec.Struct):
    """What is looked at of the daemon itself."""

    version: str
    limits_shortfall: str = ""


class _RuntimeStatus(msgspec.Struct):
    status: str
    description: str = ""


class _Status(msgspec.Struct, rename="camel"):
    runtime_status: _RuntimeStatus


class _Settings(msgspec.Struct):
    ports: dict[str, int | None] | None = None


class _Config(msgspec.Struct):
    settings: _Settings


class _Module(msgspec.Struct):
    """What is looked at of a module (`ModuleDetails`, edge.md 3.2)."""

    name: str
    type: str
    status: _Status
    config: _Config


class _Modules(msgspec.Struct):
    modules: list[_Module]


class _TrustBundle(msgspec.Struct):
    certificate: str = ""
    message: str = ""


def management(around: Surroundings) -> Outcome:
    """Ask the daemon who it is."""
    version = _ask(around, "/systeminfo", _SystemInfo).version
    return Outcome(result=Result.OK, facts={"daemon_version": version})


def daemon_version(around: Surroundings) -> Outcome:
    """Compare the daemon's version with that of this command."""
    running = _ask(around, "/systeminfo", _SystemInfo).version
    expected = around.options.expected_version or __version__
    if running != expected:
        raise warning(
            Cause.VERSION_DIFFERS,
            f"the daemon is version {running}, expected is {expected}",
            "sudo iotedge system restart, after an upgrade; else install the expected version",
        )
    return OK


def process_limits(around: Surroundings) -> Outcome:
    """See that limits of process modules hold for each module as a whole."""
    if all(each.type != "process" for each in _ask(around, "/modules", _Modules).modules):
        return IGNORED
    if reason := _ask(around, "/systeminfo", _SystemInfo).limits_shortfall:
        raise warning(
            Cause.LIMITS_OF_PROCESSES,
            f"a limit holds for each process of a module, not for all of it: {reason}",
            "use the unit that install-edge.sh brings, and control groups of version 2 with memory "
            "and pids; on a Raspberry Pi, cgroup_enable=memory in /boot/firmware/cmdline.txt",
        )
    return OK


def up_to_date(around: Surroundings) -> Outcome:
    """See that the daemon runs with the file as it is now, by what it noted when it read it."""
    assert around.configuration is not None  # noqa: S101 - for the type checker
    file = around.options.config_file
    try:
        noted = applied.read(around.settings.home)
    except PermissionError:
        raise skipped(
            Cause.CONFIGURATION_UNKNOWN,
            f"what the daemon has noted in {around.settings.home} may not be read",
            "try again with sudo",
        ) from None
    if noted is None or noted.content == around.configuration.fingerprint:
        return OK
    if noted.file != str(file.resolve()):
        raise warning(
            Cause.CONFIGURATION_ELSEWHERE,
            f"the daemon runs with {noted.file}, and {file} says something else",
            f"sudo iotedge config apply -c '{file}', or name the other one with --config-file",
        )
    raise warning(
        Cause.CONFIGURATION_NOT_APPLIED,
        f"{file} was changed after the daemon had read it",
        "sudo iotedge config apply",
    )


def edge_hub(around: Surroundings) -> Outcome:
    """Connect to the device's own edge hub as modules and leaf devices do."""
    ports = edge_hub_ports(around)
    settings = around.settings
    context = ssl.create_default_context(cadata=_trust_bundle(around))
    address = settings.edge_hub.address or "127.0.0.1"
    for port in (each for each in ports.values() if each is not None):
        _enter(address, port, settings.hostname, context, around.options.patience_s)
    return OK


def _enter(address: str, port: int, name: str, context: ssl.SSLContext, patience_s: float) -> None:
    """Speak TLS with a head of the edge hub."""
    try:
        raw = socket.create_connection((address, port), patience_s)
    except OSError as error:
        raise Problem(
            Cause.EDGE_HUB_CLOSED,
            f"the edge hub is not reached on {address}:{port}: {error.strerror or error}",
            "see whether a firewall of this device is in between (nft list ruleset), and what "
            "iotedge logs edgeHub says",
        ) from None
    try:
        with raw, context.wrap_socket(raw, server_hostname=name):
            pass
    except ssl.SSLCertVerificationError as error:
        raise Problem(
            Cause.EDGE_HUB_UNTRUSTED,
            f"the certificate on {address}:{port} is not accepted as the edge hub's: "
            f"{error.verify_message}",
            "see that the clock of this device is right (date -u), and that no other program has "
            f"the port (ss -ltnp 'sport = :{port}'); else: iotedge restart edgeHub",
        ) from None
    except OSError as error:
        raise Problem(
            Cause.EDGE_HUB_FOREIGN,
            f"what listens on {address}:{port} does not speak TLS, so it is not the edge hub: "
            f"{error.strerror or error}",
            f"end the other program, which ss -ltnp 'sport = :{port}' names, then: iotedge "
            "restart edgeHub",
        ) from None


def edge_hub_ports(around: Surroundings) -> dict[str, int | None]:
    """Return where the edge hub listens, by protocol, as its deployment has it; `None`: closed.

    Raises:
        Problem: it does not run.
    """
    modules = _ask(around, "/modules", _Modules).modules
    found = next((each for each in modules if each.name == _EDGE_HUB), None)
    if found is None:
        raise skipped(
            Cause.EDGE_HUB_ABSENT,
            "there is no edge hub before the device has an identity",
            "see the checks of the provisioning service, and: iotedge system logs",
        )
    status = found.status.runtime_status
    if status.status != "running":
        raise Problem(
            Cause.EDGE_HUB_FAILED,
            f"the edge hub is {status.status}: {status.description}",
            "mend what it names; it is tried again by itself, and at once with: iotedge restart "
            "edgeHub",
        )
    usual = around.settings.edge_hub
    return found.config.settings.ports or {
        "mqtt": usual.mqtt_port,
        "https": usual.https_port,
        "amqp": usual.amqp_port,
    }


def _trust_bundle(around: Surroundings) -> str:
    """Return what modules trust, as they learn it: from the workload API."""
    path = path_of(around.settings.sockets.workload)
    connection = http.client.HTTPConnection("localhost", timeout=around.options.patience_s)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(around.options.patience_s)
        connection.sock.connect(str(path))
        connection.request("GET", "/trust-bundle?api-version=2022-08-03")
        answer = connection.getresponse()
        found = foreign_json.decode(answer.read(), _TrustBundle)
        if found.certificate:
            return found.certificate
        reason = found.message or f"HTTP {answer.status}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error)
    finally:
        connection.close()
    raise Problem(
        Cause.WORKLOAD_API_AWAY,
        f"the workload API at {path} gives modules no trust bundle: {reason}",
        "sudo iotedge system restart, which opens it anew; iotedge system logs says why it did not",
    )


def _ask(around: Surroundings, path: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(around.ask(path), kind)
    except PermissionError as error:
        raise Problem(
            Cause.DAEMON_FORBIDDEN,
            f"the management socket may not be used by this user: {error.strerror}",
            "try again with sudo, or join the group iotedge",
        ) from None
    except DaemonAwayError as error:
        configured = around.settings.sockets.management
        if configured != around.host:
            raise Problem(
                Cause.DAEMON_ELSEWHERE,
                f"the daemon does not answer on {around.host}, and listen.management_uri is "
                f"{configured}",
                f"name that one: iotedge -H {configured} check, or set IOTEDGE_HOST to it",
            ) from None
        raise Problem(
            Cause.DAEMON_AWAY,
            f"the daemon does not answer: {error}",
            "sudo iotedge system restart; iotedge system logs says why it ended",
        ) from None
    except msgspec.ValidationError as error:
        raise Problem(
            Cause.DAEMON_FOREIGN,
            f"what answers on the management socket is not the daemon: {error}",
            "name the daemon's with -H or IOTEDGE_HOST, as listen.management_uri has it",
        ) from None
