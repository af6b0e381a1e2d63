"""Tables that both formats have: agent, sockets, container engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from muster.edge.configuration import values
from muster.edge.settings import (
    AgentSettings,
    ContainerEngine,
    Network,
    Sockets,
)

if TYPE_CHECKING:
    from muster.edge.configuration.section import Section

NO_DPS_BELOW: Final = (
    "a device below another cannot use DPS, which its parent does not pass on to: provision it by "
    'hand, with source = "manual" (edge.md 2.3)'
)
_BUILT_IN: Final = "has no effect: the agent is part of this runtime, not a container"


def agent(section: Section) -> AgentSettings:
    """Read `agent`. The agent is built in; what makes a container of it is noted."""
    if section.text("name") not in (None, "edgeAgent"):
        raise section.error("name", "must be edgeAgent")
    if section.text("type") not in (None, "docker"):
        raise section.error("type", "must be docker")
    policy = section.choice("imagePullPolicy", ("on-create", "never"))
    if policy == "never":
        section.notice("imagePullPolicy", _BUILT_IN)
    config = section.section("config")
    # `az iot edge devices create` writes an empty one where it is told none.
    image = config.text("image") if config.value("image") else None
    for key in ("createOptions", "auth"):
        if config.value(key):
            config.notice(key, _BUILT_IN)
    config.notice("digest", _BUILT_IN)
    config.finish()
    env = section.texts("env")
    section.finish()
    return AgentSettings(env=env, image=image)


def sockets(connect: Section, listen: Section) -> Sockets:
    """Read `connect` and `listen`: where the daemon listens, `connect` where that is not said.

    Containers find their socket where their runtime puts it.
    """
    chosen: dict[str, Any] = {}
    for name in ("management", "workload"):
        inside = values.socket_uri(connect, f"{name}_uri")
        outside = values.socket_uri(listen, f"{name}_uri") or inside
        if outside is not None:
            chosen[name] = outside
    connect.finish()
    listen.notice("min_tls_version", "has no effect: these sockets are not encrypted")
    listen.finish()
    return Sockets(**chosen)


def container_engine(section: Section, *, elevated: bool) -> ContainerEngine:
    """Read `moby_runtime`."""
    uri = section.text("uri")
    if uri is not None and not (uri.startswith("unix:///") or _is_http(uri)):
        raise section.error("uri", "must be unix:///path/of.sock or http://host:port")
    section.refuse("content_trust", "signed images cannot be verified here; take it out")
    engine = ContainerEngine(elevated=elevated, network=_network(section))
    section.finish()
    return engine if uri is None else msgspec.structs.replace(engine, uri=uri)


def _is_http(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that hold no address
        return False


def _network(moby: Section) -> Network:
    found = moby.value("network")
    if found is None:
        return Network()
    if isinstance(found, str):
        name = moby.text("network")
        assert name is not None  # noqa: S101 - for the type checker
        return Network(name=name)
    section = moby.section("network")
    name = section.required("name")
    ipv6 = section.flag("ipv6", default=False)
    ipam = section.section("ipam")
    entries = []
    for entry in ipam.sections("config"):
        # Names as the engine's API has them.
        named = {
            "Gateway": entry.text("gateway"),
            "Subnet": entry.text("subnet"),
            "IPRange": entry.text("ip_range"),
        }
        entry.finish()
        entries.append({key: value for key, value in named.items() if value is not None})
    ipam.finish()
    section.finish()
    return Network(name=name, ipv6=ipv6, ipam=tuple(entries))
