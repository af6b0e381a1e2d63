"""All checks, in the order in which they make sense, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.edge.check import certificate_checks as certificates
from muster.edge.check import clock_checks as clock
from muster.edge.check import configuration_checks as configuration
from muster.edge.check import connection_checks as remote
from muster.edge.check import container_checks as inside
from muster.edge.check import daemon_checks as daemon
from muster.edge.check import engine_checks as engine
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Outcome, Problem, Result

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings


class Check(NamedTuple):
    """A check.

    Attributes:
        id: as the official command has it where it has one.
        description: what is as it should be when it passes.
        run: does it.
        needs: IDs of checks without which it would only say the same again.
    """

    id: str
    description: str
    run: Callable[[Surroundings], Outcome]
    needs: tuple[str, ...] = ()


_READ: Final = "aziot-edged-config-well-formed"
_DAEMON: Final = "connect-management-uri"
_IDENTITY: Final = "identity-certificate-expiry"
_TRUST: Final = "trust-bundle"
_CA: Final = "edge-ca-expiry"
_ENGINE: Final = "container-engine-uri"
_DPS: Final = "host-connect-dps-endpoint"
_HTTPS: Final = "host-connect-iothub-https"
_MQTT: Final = "host-connect-iothub-mqtt"
_AMQP: Final = "host-connect-iothub-amqp"
_HUB: Final = "edge-hub"

CONFIGURATION: Final = (
    Check(_READ, "the configuration is correct", configuration.well_formed),
    Check(_DAEMON, "the daemon answers", daemon.management),
    Check("config-up-to-date", "the daemon runs with it", daemon.up_to_date, (_DAEMON,)),
    Check(
        "aziot-edge-version",
        "the daemon has the expected version",
        daemon.daemon_version,
        (_DAEMON,),
    ),
    Check("hostname", "the host name is the machine's", configuration.host_name),
    Check("parent_hostname", "the device above has a good name", configuration.parent_name),
    Check(_TRUST, "the trust bundle can be used", certificates.trust_bundle),
    Check(
        _IDENTITY,
        "the device's certificate and key can be used",
        certificates.identity_certificate,
    ),
    Check(_CA, "the CA that was brought can be used", certificates.edge_ca),
    Check("storage", "state survives, and has room", configuration.storage),
    Check("process-limits", "limits hold for whole modules", daemon.process_limits, (_DAEMON,)),
    Check(_ENGINE, "the container engine answers", engine.container_engine),
    Check("container-engine-logrotate", "logs of containers are bounded", engine.engine_logs),
    Check("container-engine-ipv6", "the container engine has IPv6 as wanted", engine.engine_ipv6),
    Check("container-engine-dns", "containers have a DNS server", engine.engine_dns),
    Check(
        "proxy-settings",
        "daemon, container engine and agent use one proxy",
        inside.proxies,
        (_DAEMON,),
    ),
)
CONNECTION: Final = (
    Check("host-local-time", "the clock is right", clock.local_time),
    Check(_DPS, "the provisioning service can be reached", remote.dps_endpoint, (_TRUST,)),
    Check(_HTTPS, "the hub can be reached by HTTPS", remote.hub_https, (_TRUST,)),
    Check(_MQTT, "the hub can be reached by MQTT", remote.hub_mqtt, (_TRUST,)),
    Check(_AMQP, "the hub can be reached by AMQP", remote.hub_amqp, (_TRUST,)),
    Check(
        "dps-registration",
        "the provisioning service accepts the device",
        remote.dps_registration,
        (_TRUST, _IDENTITY, _DPS),
    ),
    Check(
        "iothub-authentication",
        "the hub accepts the device",
        remote.hub_authentication,
        (_TRUST, _IDENTITY, _HTTPS),
    ),
    Check(
        _HUB,
        "modules and leaf devices can connect to the edge hub",
        daemon.edge_hub,
        (_DAEMON, _TRUST, _CA),
    ),
    Check(
        "container-connect-edge-hub",
        "the edge hub can be reached from the network of modules",
        inside.edge_hub,
        (_ENGINE, _HUB),
    ),
    Check(
        "container-connect-upstream-https",
        "the hub can be reached by HTTPS from the network of modules",
        inside.module_upstream_https,
        (_ENGINE, _HTTPS),
    ),
    Check(
        "container-connect-upstream-mqtt",
        "the hub can be reached by MQTT from the network of modules",
        inside.module_upstream_mqtt,
        (_ENGINE, _MQTT),
    ),
    Check(
        "container-connect-upstream-amqp",
        "the hub can be reached by AMQP from the network of modules",
        inside.module_upstream_amqp,
        (_ENGINE, _AMQP),
    ),
    Check(
        "container-default-connect-upstream-https",
        "the hub can be reached by HTTPS from the default network",
        inside.default_upstream_https,
        (_ENGINE, _HTTPS),
    ),
    Check(
        "container-default-connect-upstream-mqtt",
        "the hub can be reached by MQTT from the default network",
        inside.default_upstream_mqtt,
        (_ENGINE, _MQTT),
    ),
    Check(
        "container-default-connect-upstream-amqp",
        "the hub can be reached by AMQP from the default network",
        inside.default_upstream_amqp,
        (_ENGINE, _AMQP),
    ),
)
SECTIONS: Final = (
    ("Configuration checks", CONFIGURATION),
    ("Connectivity checks", CONNECTION),
)
CHECKS: Final = (*CONFIGURATION, *CONNECTION)


class Finding(NamedTuple):
    """A check and what it has found."""

    check: Check
    outcome: Outcome


def run(
    checks: Collection[Check], around: Surroundings, left_out: Collection[str] = ()
) -> Iterator[Finding]:
    """Run checks, and yield each as it is done.

    Args:
        checks: which.
        around: see there; after a fatal finding all others are skipped.
        left_out: IDs of those not to run.
    """
    for check in checks:
        outcome = IGNORED if check.id in left_out else _one(check, around)
        if outcome.blocks:
            around.failed.setdefault(check.id, check.id)
        yield Finding(check, outcome)


def _one(check: Check, around: Surroundings) -> Outcome:
    if around.configuration is None and check.id != _READ:
        return _needs(_READ)
    root = next((around.failed[need] for need in check.needs if need in around.failed), None)
    if root is not None:
        around.failed[check.id] = root
        return _needs(root)
    try:
        return check.run(around)
    except Problem as problem:
        outcome = problem.outcome
        if outcome.result is Result.FATAL:
            around.configuration = None
        return outcome


def _needs(root: str) -> Outcome:
    return Outcome(
        result=Result.SKIPPED,
        cause=Cause.EARLIER_CHECK,
        details=(f"nothing is to be learnt here before {root} passes",),
        blocks=True,
    )
