"""How a module of a deployment is made: environment, credentials, specification (edge.md 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from muster.edge.agent import images
from muster.edge.agent.deployment import RuntimeSettings, WantedModule
from muster.edge.engine.base import WORKLOAD_URI, ModuleSpec, RegistryLogin
from muster.edge.identity import ModuleIdentity

API_VERSION: Final = "2022-08-03"

_LOG_LEVEL: Final = "RuntimeLogLevel"
_UPSTREAM: Final = "UpstreamProtocol"


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What all modules of a device share.

    Attributes:
        hub_host: of the assigned hub, without a port.
        device_id: of this device.
        hostname: of this device, which modules and leaf devices reach the edge hub by.
        parent_hostname: of the edge device above; `None` for none.
        agent_env: of the agent, see `settings.AgentSettings`.
    """

    hub_host: str
    device_id: str
    hostname: str
    parent_hostname: str | None = None
    agent_env: dict[str, str] = {}


def specification(
    wanted: WantedModule,
    identity: ModuleIdentity,
    socket: Path,
    runtime: RuntimeSettings,
    facts: DeviceFacts,
) -> ModuleSpec:
    """Return how a module is made."""
    image = wanted.settings.get("image")
    login = None
    if isinstance(image, str):
        login = images.login(
            image, runtime.registries.values(), environment_logins(facts.agent_env)
        )
    return ModuleSpec(
        name=wanted.name,
        module_id=identity.module_id,
        settings=wanted.settings,
        create_options=wanted.create_options,
        env=environment(wanted.env, identity, facts),
        workload_socket=socket,
        device_names=(facts.hostname,),
        pull_policy=wanted.pull_policy,
        login=login,
    )


def environment(
    deployed: Mapping[str, str], identity: ModuleIdentity, facts: DeviceFacts
) -> dict[str, str]:
    """Return the environment of a module: the deployment's, and what it finds its way by.

    Its workload socket is not in it: only a runtime knows where a module sees that.
    """
    env = {_LOG_LEVEL: facts.agent_env.get(_LOG_LEVEL, "info")}
    if _UPSTREAM in facts.agent_env:
        env[_UPSTREAM] = facts.agent_env[_UPSTREAM]
    env.update(deployed)
    env.pop(WORKLOAD_URI, None)
    env.update(
        IOTEDGE_AUTHSCHEME="sasToken",
        IOTEDGE_MODULEGENERATIONID=identity.generation_id,
        IOTEDGE_IOTHUBHOSTNAME=facts.hub_host,
        IOTEDGE_GATEWAYHOSTNAME=facts.hostname,
        IOTEDGE_DEVICEID=facts.device_id,
        IOTEDGE_MODULEID=identity.module_id,
        IOTEDGE_APIVERSION=API_VERSION,
    )
    if facts.parent_hostname is not None:
        env["IOTEDGE_PARENTHOSTNAME"] = facts.parent_hostname
    return env


def environment_logins(agent_env: Mapping[str, str]) -> Iterator[RegistryLogin]:
    """Return the credentials in `DockerRegistryAuth__n__…`, in order; incomplete ones are none."""
    number = 0
    while True:
        prefix = f"DockerRegistryAuth__{number}__"
        fields = [
            agent_env.get(prefix + name) for name in ("serverAddress", "username", "password")
        ]
        if not any(fields):
            return
        address, username, password = fields
        if address and username and password:
            yield RegistryLogin(address=address, username=username, password=password)
        number += 1
