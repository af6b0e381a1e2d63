"""Configurations over the parts of a hub, and the contents that tests deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from muster.hub.configurations import Configurations
from muster.hub.convergence import Convergence
from muster.hub.deployer import Deployer
from muster.hub.deployment_explanations import DeploymentExplanations
from muster.hub.query_indexes import QueryIndexes
from muster.hub.targets import Targets
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.configuration import ConfigurationRequest, Content
from muster.model.identity import IdentityRef
from muster.wire.mqtt.packets import Subscribe

if TYPE_CHECKING:
    from muster.hub.twins import ServiceTwin
    from muster.model.configuration import Configuration
    from unit.hub.hub_parts import Client, Parts

DESIRED = "properties.desired"


@final
class Deploying:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.targets = Targets(parts.engine, parts.connections)
        self.configurations = Configurations(parts.engine, parts.clock, self.targets)
        self.deployer = Deployer(
            parts.engine,
            parts.clock,
            parts.randomness,
            configurations=self.configurations,
            targets=self.targets,
            connections=parts.connections,
            changes=parts.changes,
            catch_up=parts.twin_catch_up,
        )
        self.indexes = QueryIndexes(parts.engine)
        self.convergence = Convergence(
            self.configurations, self.targets, self.deployer, self.indexes, parts.changes
        )
        self.explanations = DeploymentExplanations(self.configurations, self.targets, parts.twins)

    async def create(self, name: str, content: Content, **fields: Any) -> Configuration:
        """Create a configuration, a second later than the one before, and let it apply."""
        self.parts.clock.advance(1)
        fields.setdefault("target_condition", "*")
        request = ConfigurationRequest(content=content, **fields)
        made = await self.configurations.create(self.parts.hub, name, request)
        await self.settle()
        return made

    async def update(self, name: str, **fields: Any) -> Configuration:
        changed = await self.configurations.update(
            self.parts.hub, name, ConfigurationRequest(**fields), "*"
        )
        await self.settle()
        return changed

    async def delete(self, name: str) -> None:
        await self.configurations.delete(self.parts.hub, name, None)
        await self.settle()

    async def settle(self) -> None:
        while not self.convergence.idle:
            await self.convergence.step()

    async def edge(self, device_id: str = "e1", **tags: Any) -> IdentityRef:
        """Create an edge device with tags."""
        ref = await self.parts.device(device_id, edge=True)
        await self.tag(device_id, **tags)
        return ref

    async def tag(self, device_id: str, **tags: Any) -> None:
        ref = IdentityRef(self.parts.hub.id, device_id)
        await self.parts.twins.change(ref, TwinRequest(tags))
        await self.settle()

    async def desire(self, device_id: str, desired: dict[str, Any], module_id: str = "") -> None:
        ref = IdentityRef(self.parts.hub.id, device_id, module_id)
        await self.parts.twins.change(ref, TwinRequest(properties=TwinProperties(desired)))
        await self.settle()

    async def twin(self, device_id: str = "e1", module_id: str = "$edgeAgent") -> ServiceTwin:
        return await self.parts.twins.get(IdentityRef(self.parts.hub.id, device_id, module_id))

    async def image(self, device_id: str = "e1", module: str = "a") -> str | None:
        """Return the image a device is to run for a module."""
        desired = (await self.twin(device_id)).properties["desired"]
        found = desired.get("modules", {}).get(module)
        return found and found["settings"]["image"]

    async def statuses(
        self, device_id: str = "e1", module_id: str = "$edgeAgent"
    ) -> dict[str, str]:
        twin = await self.twin(device_id, module_id)
        found = twin.configurations
        return {name: each["status"] for name, each in found.items()} if found else {}


def base(image: str = "a:1", **more: dict[str, Any]) -> Content:
    """A deployment of module `a`, and of others by their twins' content."""
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {}},
        "systemModules": {"edgeAgent": {}, "edgeHub": {}},
        "modules": {"a": {"type": "docker", "settings": {"image": image}}},
    }
    hub = {"schemaVersion": "1.1", "routes": {"up": "FROM /* INTO $upstream"}}
    return Content(
        modules_content={"$edgeAgent": {DESIRED: agent}, "$edgeHub": {DESIRED: hub}, **more}
    )


def layer(**modules: dict[str, Any]) -> Content:
    """A layered deployment; keys are module IDs with `agent` for `$edgeAgent`."""
    content = {"$edgeAgent": modules.pop("agent", {}), **modules}
    return Content(modules_content=content)


def module(image: str) -> dict[str, Any]:
    return {"type": "docker", "settings": {"image": image}}


def plain(section: dict[str, Any]) -> dict[str, Any]:
    """Return properties without the members of the service."""
    return {name: value for name, value in section.items() if not name.startswith("$")}


async def agent(deploying: Deploying) -> Client:
    """Connect the agent of the device e1, which hears of desired properties."""
    hub = deploying.parts.hub.id
    ref = IdentityRef(hub, "e1", "$edgeAgent")
    found = await deploying.parts.modules.get(ref)
    key = found.authentication.symmetric_key
    assert key is not None
    assert key.primary_key is not None
    token = deploying.parts.token(ref, key.primary_key)
    client = await deploying.parts.connect(ref, password=token)
    client.send(Subscribe(1, [("$iothub/twin/PATCH/properties/desired/#", 0)]))
    await client.take()
    return client
