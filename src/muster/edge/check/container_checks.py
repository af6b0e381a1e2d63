"""Checks from inside a container: what modules reach, and by which proxies (edge.md 7.1).

A container is made for a moment, of an image that is on the device, and asks for connections with
what it has: Python, Bash or nc.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from muster.edge.check.causes import Cause
from muster.edge.check.connection_checks import AMQP, MQTT, gateway, wants_amqp
from muster.edge.check.daemon_checks import edge_hub_ports
from muster.edge.check.engine import RefusedError, SlowError, call
from muster.edge.check.outcome import (
    IGNORED,
    OK,
    DaemonAwayError,
    Outcome,
    Problem,
    skipped,
    warning,
)
from muster.edge.engine.containers import OWNER, OWNER_LABEL, gateways
from muster.net.tunnel import Proxy

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_DEFAULT_NETWORK: Final = "bridge"
_PYTHON: Final = (
    "import socket, sys\n"
    "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
    "except OSError as error: sys.exit(error.strerror or str(error))\n"
)
_PATIENCE: Final = 2
"""Times as long as for a connection, for a container to look up the name, too."""
_SILENCE: Final = "nothing was heard"
_NO_TOOL: Final = 97
_NOT_RUN: Final = (126, 127)
"""What shells, and the engine, say of a program that is not there or none."""
_SCRIPT: Final = f"""
if command -v python3 >/dev/null; then exec python3 -c "$PROBE" "$HOST" "$PORT"; fi
if command -v bash >/dev/null; then
  exec timeout 10 bash -c 'exec 3<>"/dev/tcp/$HOST/$PORT"'
fi
if command -v nc >/dev/null; then exec nc -z -w 10 "$HOST" "$PORT"; fi
exit {_NO_TOOL}
"""


def proxies(around: Surroundings) -> Outcome:
    """Compare the proxies of the daemon, the container engine and the agent's environment."""
    try:
        daemon = _proxy(around.daemon_environment())
    except PermissionError:
        raise skipped(
            Cause.DAEMON_ENVIRONMENT_FORBIDDEN,
            "the environment of the daemon may not be read",
            "try again with sudo",
        ) from None
    except DaemonAwayError as error:
        raise skipped(
            Cause.DAEMON_AWAY, f"the daemon does not answer: {error}", "see connect-management-uri"
        ) from None
    env = around.settings.agent.env
    if (modules := _proxy(env)) is not None and modules != daemon:
        raise warning(
            Cause.PROXY_OF_AGENT_DIFFERS,
            f"agent.env names the proxy {modules}, and the daemon uses {daemon or 'none'}",
            "the agent is part of the daemon: give https_proxy to its service (sudo systemctl edit "
            "iotedged), then: sudo iotedge system restart",
        )
    try:
        found = json.loads(call(around, "GET", "/info"))
    except (Problem, RefusedError):  # a device of process modules
        return OK
    engine = _proxy({"https_proxy": str(found.get("HttpsProxy") or "")})
    if engine != daemon:
        raise warning(
            Cause.PROXY_OF_ENGINE_DIFFERS,
            f"the container engine pulls images by the proxy {engine or 'none'}, and the daemon "
            f"uses {daemon or 'none'}",
            "where images come from the same network as the hub, give both the same https_proxy "
            "(sudo systemctl edit docker)",
        )
    return OK


def module_upstream_https(around: Surroundings) -> Outcome:
    """Connect to the hub's HTTPS port from a container on the network of modules."""
    return _upstream(around, around.settings.engine.network.name, gateway(around)[1])


def module_upstream_mqtt(around: Surroundings) -> Outcome:
    """Connect to the hub's MQTT port from a container on the network of modules."""
    return _upstream(around, around.settings.engine.network.name, MQTT)


def module_upstream_amqp(around: Surroundings) -> Outcome:
    """Connect to the hub's AMQP port from a container on the network of modules."""
    if not wants_amqp(around):
        return IGNORED
    return _upstream(around, around.settings.engine.network.name, AMQP)


def default_upstream_https(around: Surroundings) -> Outcome:
    """Connect to the hub's HTTPS port from a container on the engine's default network."""
    return _upstream(around, _DEFAULT_NETWORK, gateway(around)[1])


def default_upstream_mqtt(around: Surroundings) -> Outcome:
    """Connect to the hub's MQTT port from a container on the engine's default network."""
    return _upstream(around, _DEFAULT_NETWORK, MQTT)


def default_upstream_amqp(around: Surroundings) -> Outcome:
    """Connect to the hub's AMQP port from a container on the engine's default network."""
    if not wants_amqp(around):
        return IGNORED
    return _upstream(around, _DEFAULT_NETWORK, AMQP)


def edge_hub(around: Surroundings) -> Outcome:
    """Connect to the edge hub from a container, by the name and way that modules have."""
    ports = edge_hub_ports(around)
    name = around.settings.hostname
    network = _network(around, around.settings.engine.network.name)
    hosts = [f"{name}:{address}" for address in gateways(network)]
    for port in (ports["mqtt"], ports["https"]):
        if (
            port is not None
            and (said := _try(around, network["Name"], name, port, hosts)) is not None
        ):
            raise Problem(
                Cause.EDGE_HUB_BARRED,
                f"from the network {network['Name']}, the edge hub is not reached at {name}:{port}"
                f": {said}",
                "let the firewall of this device accept TCP from that network (sudo iptables -L "
                "INPUT, nft list ruleset), and see the check edge-hub",
            )
    return OK


def _upstream(around: Surroundings, network: str, port: int) -> Outcome:
    host, _ = gateway(around)
    _network(around, network)
    if (said := _try(around, network, host, port, [])) is not None:
        raise warning(
            Cause.UPSTREAM_BARRED,
            f"from a container on the network {network}, {host}:{port} is not reached: {said} "
            "(modules speak to the edge hub, which has a way of its own)",
            "where a module calls the cloud itself: see that containers have DNS, that the device "
            "forwards their packets (sysctl net.ipv4.ip_forward), and that firewalls let them out",
        )
    return OK


def _network(around: Surroundings, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(call(around, "GET", f"/networks/{quote(name, safe='')}"))
    except RefusedError as error:
        raise skipped(
            Cause.NETWORK_MISSING,
            f"the container engine has no network {name}: {error}",
            "that of modules is made when the daemon starts; the default one can be switched off",
        ) from None
    return found


def _image(around: Surroundings) -> str:
    """Return the image to use: the one that was named, else that of a module."""
    if around.options.diagnostics_image is not None:
        return around.options.diagnostics_image
    mine = quote(json.dumps({"label": [f"{OWNER_LABEL}={OWNER}"]}))
    with contextlib.suppress(RefusedError):
        found = json.loads(call(around, "GET", f"/containers/json?all=1&filters={mine}"))
        for container in sorted(found, key=lambda each: str(each["Names"])):
            return str(container["ImageID"])
    raise skipped(
        Cause.IMAGE_MISSING,
        "no module is a container, so there is no image to look out of",
        "name one that is on this device and has Python, Bash or nc: --diagnostics-image-name",
    )


def _try(around: Surroundings, network: str, host: str, port: int, hosts: list[str]) -> str | None:
    """Connect from a container that is made for it; return what is wrong, `None` for nothing."""
    image = _image(around)
    body = {
        "Image": image,
        "Entrypoint": ["sh", "-c", _SCRIPT],
        "Cmd": [],
        "Env": [f"HOST={host}", f"PORT={port}", f"PROBE={_PYTHON}"],
        "Tty": True,
        "HostConfig": {"NetworkMode": network, "ExtraHosts": hosts, "CapDrop": ["ALL"]},
    }
    try:
        made = json.loads(call(around, "POST", "/containers/create", body))["Id"]
        try:
            call(around, "POST", f"/containers/{made}/start")
            patience_s = _PATIENCE * around.options.patience_s
            ended = call(around, "POST", f"/containers/{made}/wait", patience_s=patience_s)
            code = json.loads(ended)["StatusCode"]
            said = call(around, "GET", f"/containers/{made}/logs?stdout=1&stderr=1&tail=1")
        finally:
            call(around, "DELETE", f"/containers/{made}?force=1&v=1")
    except SlowError:
        return _SILENCE
    except RefusedError as error:
        raise _unusable(image, str(error)) from None
    if code == 0:
        return None
    if code in (_NO_TOOL, *_NOT_RUN):
        raise _unusable(image, "it has no Python, Bash or nc")
    return said.decode(errors="replace").strip() or _SILENCE


def _unusable(image: str, reason: str) -> Problem:
    return skipped(
        Cause.IMAGE_UNUSABLE,
        f"the image {image} cannot be used to look out of: {reason}",
        "name one that is on this device and has Python, Bash or nc: --diagnostics-image-name",
    )


def _proxy(environment: Any) -> str | None:
    """Return `host:port` of the proxy in an environment, never its password."""
    text = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
    if not text:
        return None
    try:
        found = Proxy.parse(text)
    except ValueError as error:
        raise Problem(
            Cause.PROXY_MALFORMED, f"https_proxy: {error}", "correct https_proxy"
        ) from None
    return f"{found.host}:{found.port}"
