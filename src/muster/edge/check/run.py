"""All checks, in the order in which they make sense, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.edge.check import configuration_checks as local
from muster.edge.check import connection_checks as remote
from muster.edge.check import container_checks as inside
from muster.edge.check.outcome import IGNORED, Outcome, Problem, Result

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings


class Check(NamedTuple):
    """A check.

    Attributes:
        id: as the official command has it where it has one.
        description: what is as it should be when it passes.
        run: does it.
    """

    id: str
    description: str
    run: Callable[[Surroundings], Outcome]


CONFIGURATION: Final = (
    Check("aziot-edged-config-well-formed", "the configuration is correct", local.well_formed),
    Check("connect-management-uri", "the daemon answers", local.management),
    Check("config-up-to-date", "the daemon runs with this configuration", local.up_to_date),
    Check("aziot-edge-version", "the daemon has the expected version", local.daemon_version),
    Check("hostname", "the host name is the machine's", local.host_name),
    Check("trust-bundle", "the trust bundle can be used", local.trust_bundle),
    Check(
        "identity-certificate-expiry",
        "the device's certificate is valid",
        local.identity_certificate,
    ),
    Check("edge-ca-expiry", "the CA that was brought can be used", local.edge_ca),
    Check("storage", "state survives, and has room", local.storage),
    Check("container-engine-uri", "the container engine answers", local.container_engine),
    Check("container-engine-logrotate", "logs of containers are bounded", local.engine_logs),
    Check("container-engine-ipv6", "the container engine has IPv6 as wanted", local.engine_ipv6),
    Check("container-engine-dns", "containers have a DNS server", local.engine_dns),
    Check("proxy-settings", "daemon, container engine and agent use one proxy", inside.proxies),
)
CONNECTION: Final = (
    Check(
        "host-connect-dps-endpoint",
        "the provisioning service can be reached",
        remote.dps_endpoint,
    ),
    Check("host-connect-iothub-https", "the hub can be reached by HTTPS", remote.hub_https),
    Check("host-connect-iothub-mqtt", "the hub can be reached by MQTT", remote.hub_mqtt),
    Check("host-local-time", "the clock is right", remote.local_time),
    Check(
        "dps-registration",
        "the provisioning service accepts the device",
        remote.dps_registration,
    ),
    Check("iothub-authentication", "the hub accepts the device", remote.hub_authentication),
    Check("edge-hub", "modules and leaf devices can connect to the edge hub", remote.edge_hub),
    Check(
        "container-connect-edge-hub",
        "the edge hub can be reached from the network of modules",
        inside.edge_hub,
    ),
    Check(
        "container-connect-upstream-https",
        "the hub can be reached by HTTPS from the network of modules",
        inside.module_upstream_https,
    ),
    Check(
        "container-connect-upstream-mqtt",
        "the hub can be reached by MQTT from the network of modules",
        inside.module_upstream_mqtt,
    ),
    Check(
        "container-default-connect-upstream-https",
        "the hub can be reached by HTTPS from the default network",
        inside.default_upstream_https,
    ),
    Check(
        "container-default-connect-upstream-mqtt",
        "the hub can be reached by MQTT from the default network",
        inside.default_upstream_mqtt,
    ),
)
SECTIONS: Final = (
    ("Configuration checks", CONFIGURATION),
    ("Connectivity checks", CONNECTION),
)


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
        if check.id in left_out:
            yield Finding(check, IGNORED)
        elif around.configuration is None and check is not CONFIGURATION[0]:
            yield Finding(check, Outcome(result=Result.SKIPPED))
        else:
            yield Finding(check, _one(check, around))


def _one(check: Check, around: Surroundings) -> Outcome:
    try:
        return check.run(around)
    except Problem as problem:
        outcome = problem.outcome
        if outcome.result is Result.FATAL:
            around.configuration = None
        return outcome
