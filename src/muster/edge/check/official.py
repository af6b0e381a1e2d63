"""Checks of the official commands that are called otherwise here, or are not here (edge.md 7.1)."""

from __future__ import annotations

from typing import Final

_PROTOCOLS: Final = ("https", "mqtt", "amqp")

RENAMED: Final = {
    "config-yaml-well-formed": "aziot-edged-config-well-formed",
    "configs-up-to-date": "config-up-to-date",
    "iotedged-version": "aziot-edge-version",
    **{
        f"container-{old}connect-iothub-{each}": f"container-{new}connect-upstream-{each}"
        for old, new in (("", ""), ("module-", ""), ("default-", "default-"))
        for each in _PROTOCOLS
    },
}
"""IDs of 1.0 and 1.1, and what they are here: whoever leaves one out means that."""

ELSEWHERE: Final = {
    "connection-string": "is part of `aziot-edged-config-well-formed`",
    **dict.fromkeys(
        (f"{each}-config-well-formed" for each in ("keyd", "certd", "tpmd", "identityd")),
        "is part of `aziot-edged-config-well-formed`: there is one file",
    ),
    "aziot-version": "is `aziot-edge-version`: there is no identity service besides",
    "certs-match-private-keys": "is part of `identity-certificate-expiry` and `edge-ca-expiry`",
    **dict.fromkeys(
        ("certs-preloaded", "certs-read", "key-pairs-read"),
        "is part of `trust-bundle`, `identity-certificate-expiry` and `edge-ca-expiry`",
    ),
    "edge-agent-storage-mounted-from-host": "is `storage`: the agent is part of the daemon",
    "edge-hub-storage-mounted-from-host": "is `storage`: the edge hub is part of the daemon",
    **dict.fromkeys(
        ("identityd-running", "keyd-running", "certd-running"),
        "is `connect-management-uri`: it is one process",
    ),
    "tpmd-running": "has no meaning: TPMs are not used",
    "container-local-time": "has no meaning: containers have the clock of the device's kernel",
    "container-resolve-parent-hostname": "has no meaning: modules speak to this device only",
    "check-agent-image": "has no meaning: the agent is no container",
    "certificates-quickstart": "has no meaning: the root that is made here does not end, and what "
    "it issues is renewed by itself",
    "container-engine-is-moby": "has no meaning: any engine with Docker's API will do",
    **dict.fromkeys(
        (
            "est-server-https",
            "est-identity-and-bootstrap-certificate-expiry",
            "local-ca-certificate-expiry",
        ),
        "has no meaning: the configuration refuses EST and local CAs",
    ),
    "windows-host-version": "has no meaning here",
}
"""Those that are not here, and why."""
