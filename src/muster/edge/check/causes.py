"""Everything a check may say, each with a name that stays when its words change.

`iotedge check -o json` names it, documentation lists it, and a test fails for each one that no test
produces by breaking that very thing.
"""

from __future__ import annotations

import enum
from typing import Self


class Cause(enum.StrEnum):
    """What is wrong.

    Attributes:
        meaning: the same in a sentence.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member of its name and its meaning."""
        made = str.__new__(cls, value)
        made._value_ = value
        made.meaning = meaning
        return made

    EARLIER_CHECK = "earlier-check", "what it needs is what another check has found wrong"

    # The configuration.
    CONFIGURATION_MISSING = "configuration-missing", "there is no configuration"
    CONFIGURATION_UNREADABLE = "configuration-unreadable", "the user may not read it"
    CONFIGURATION_WRONG = "configuration-wrong", "it cannot be used; file, line and key are named"
    CONFIGURATION_WITHOUT_HUB = "configuration-without-hub", 'it says `source = "none"`'
    CONFIGURATION_OF_TPM = "configuration-of-tpm", "it wants a TPM, which this runtime does not use"
    CONFIGURATION_EXPOSED = "configuration-exposed", "others may read it"
    HOSTNAME_DIFFERS = "hostname-differs", "`hostname` is not the machine's"
    HOSTNAME_MALFORMED = "hostname-malformed", "`hostname` is no name by RFC 1035"
    PARENT_MALFORMED = "parent-malformed", "`parent_hostname` is no name by RFC 1035"

    # The home directory.
    HOME_MISSING = "home-missing", "the directory of all state is not there"
    HOME_READ_ONLY = "home-read-only", "root cannot write to it"
    HOME_OF_ANOTHER = "home-of-another", "this user cannot write to it, so only root can tell"
    HOME_FULL = "home-full", "its disk has less than 200 MB left"
    HOME_VOLATILE = "home-volatile", "it is in memory or in a container, and goes with the power"

    # Certificates and keys.
    TRUST_BUNDLE_UNUSABLE = "trust-bundle-unusable", "`trust_bundle_cert` cannot be used"
    IDENTITY_CERTIFICATE_UNUSABLE = (
        "identity-certificate-unusable",
        "`identity_cert` is not there or holds no certificate",
    )
    IDENTITY_KEY_UNUSABLE = "identity-key-unusable", "`identity_pk` is not the certificate's key"
    EDGE_CA_UNUSABLE = "edge-ca-unusable", "the CA of `edge_ca` cannot be used"
    EDGE_CA_OUT_OF_TIME = "edge-ca-out-of-time", "it has ended, or is not valid yet"
    CERTIFICATE_ENDED = "certificate-ended", "the device's certificate has ended"
    CERTIFICATE_TOO_NEW = "certificate-too-new", "it is not valid yet"
    CERTIFICATE_ENDS_SOON = (
        "certificate-ends-soon",
        "that, or the CA of `edge_ca`, ends within seven days",
    )

    # The daemon.
    DAEMON_AWAY = "daemon-away", "the daemon does not answer"
    DAEMON_ELSEWHERE = "daemon-elsewhere", "it was asked where the configuration does not have it"
    DAEMON_FORBIDDEN = "daemon-forbidden", "the user may not use the management socket"
    DAEMON_FOREIGN = "daemon-foreign", "what answers on the management socket is not the daemon"
    CONFIGURATION_NOT_APPLIED = "configuration-not-applied", "the daemon runs with another content"
    CONFIGURATION_ELSEWHERE = "configuration-elsewhere", "the daemon runs with another file"
    CONFIGURATION_UNKNOWN = "configuration-unknown", "with which one it runs cannot be read"
    VERSION_DIFFERS = "version-differs", "the daemon is not of the expected version"
    LIMITS_OF_PROCESSES = (
        "limits-of-processes",
        "a limit of a process module holds for each of its processes only",
    )
    DAEMON_ENVIRONMENT_FORBIDDEN = (
        "daemon-environment-forbidden",
        "the user may not read the daemon's environment",
    )
    PROXY_OF_AGENT_DIFFERS = "proxy-of-agent-differs", "`agent.env` has another proxy"
    PROXY_OF_ENGINE_DIFFERS = "proxy-of-engine-differs", "the container engine has another proxy"

    # The container engine.
    ENGINE_MISSING = "engine-missing", "there is none at `moby_runtime.uri`"
    ENGINE_FORBIDDEN = "engine-forbidden", "the user may not use it"
    ENGINE_SILENT = "engine-silent", "it does not answer"
    ENGINE_FOREIGN = "engine-foreign", "what answers is none"
    ENGINE_FILE_UNUSABLE = "engine-file-unusable", "its configuration cannot be read"
    ENGINE_LOGS_UNBOUNDED = "engine-logs-unbounded", "logs of containers have no limit"
    ENGINE_WITHOUT_DNS = "engine-without-dns", "containers have no DNS server of their own"
    ENGINE_WITHOUT_IPV6 = "engine-without-ipv6", "the network wants IPv6 that the engine has not"

    # The clock.
    CLOCK_OFF = "clock-off", "the clock is off by ten seconds and more"
    CLOCK_WRONG = "clock-wrong", "the clock is off by more than services forgive, five minutes"
    TIME_UNKNOWN = "time-unknown", "nobody has told the time"
    TIME_SERVER_SILENT = "time-server-silent", "the time server does not answer"
    TIME_SERVER_FOREIGN = "time-server-foreign", "what answers is none"

    # Connections.
    PROXY_MALFORMED = "proxy-malformed", "`https_proxy` is no proxy"
    PROXY_REFUSES = "proxy-refuses", "the proxy opens no way"
    NAME_UNKNOWN = "name-unknown", "DNS does not know the name"
    PORT_REFUSED = "port-refused", "the port is closed"
    NO_ROUTE = "no-route", "the network has no way there"
    PORT_SILENT = "port-silent", "nobody answers, as behind a firewall that drops packets"
    NOT_TLS = "not-tls", "what answers does not speak TLS"
    BROKEN_OFF = "broken-off", "what answers breaks off, or does not speak HTTP"
    CA_UNKNOWN = "ca-unknown", "the certificate is of nobody whom this device trusts"
    NAME_MISMATCH = "name-mismatch", "the certificate is for another name"
    CERTIFICATE_OUT_OF_TIME = "certificate-out-of-time", "the certificate is not valid now"
    CERTIFICATE_BY_WRONG_CLOCK = (
        "certificate-by-wrong-clock",
        "likewise, while the clock is wrong",
    )

    # The provisioning service and the hub.
    PROOF_REFUSED = (
        "proof-refused",
        "the provisioning service does not accept the key or certificate",
    )
    NOT_REGISTERED = "not-registered", "the device has never registered"
    REGISTRATION_UNKNOWN = "registration-unknown", "the ID scope is not known"
    PROVISIONING_IN_TROUBLE = "provisioning-in-trouble", "the service answers with an error"
    NOT_ASSIGNED = "not-assigned", "the device is not assigned to a hub"
    IDENTITY_UNREADABLE = "identity-unreadable", "the user may not read to which one it is"
    HUB_REFUSES = "hub-refuses", "the hub does not let the device in"
    HUB_IN_TROUBLE = "hub-in-trouble", "the hub answers with an error"

    # The edge hub, and containers.
    EDGE_HUB_ABSENT = "edge-hub-absent", "there is none before the device has an identity"
    EDGE_HUB_FAILED = "edge-hub-failed", "it does not run; the reason is said"
    EDGE_HUB_CLOSED = "edge-hub-closed", "one of its ports cannot be reached"
    EDGE_HUB_FOREIGN = "edge-hub-foreign", "another program has one of its ports"
    EDGE_HUB_UNTRUSTED = "edge-hub-untrusted", "its certificate is not accepted"
    WORKLOAD_API_AWAY = "workload-api-away", "modules learn of no trust bundle"
    EDGE_HUB_BARRED = "edge-hub-barred", "it is not reached from the network of modules"
    UPSTREAM_BARRED = "upstream-barred", "the hub is not reached from a container"
    NETWORK_MISSING = "network-missing", "the container engine has no such network"
    IMAGE_MISSING = "image-missing", "there is no image to look out of"
    IMAGE_UNUSABLE = "image-unusable", "the image cannot be used to look out of"
