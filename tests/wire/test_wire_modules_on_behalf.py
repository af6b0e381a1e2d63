"""What an edge device asks the hub on behalf of one below it, as it asks it (edge.md 6.3, 6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.secrets import new_key, token
from wire.test_wire_device_scopes import NESTED, Edge

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance

PUT, GET = "putModuleOnBehalfOf", "getModuleOnBehalfOf"
LIST, DELETE = "getModulesOnTargetDevice", "deleteModuleOnBehalfOf"


class Family:
    """An edge device, one below it, one below that, and one beside them."""

    def __init__(self, instance: Instance) -> None:
        self.top = Edge(instance)
        self.child = Edge(instance, parent=self.top)
        self.grandchild = Edge(instance, parent=self.child)
        self.stranger = Edge(instance)
        self.chain = f"{self.child.device_id};{self.top.device_id}"

    def ask(self, operation: str, body: Any, **options: Any) -> Reply:
        """Call as the one on top."""
        method = "PUT" if operation == PUT else "POST"
        return self.top.ask(method, operation, body, api_version=NESTED, **options)

    def module(self, name: str, edge: Edge | None = None, **fields: Any) -> dict[str, Any]:
        """Return a module in the words of the official edge hub, read-only members and all."""
        return {
            "moduleId": name,
            "deviceId": (edge or self.child).device_id,
            "generationId": None,
            "etag": None,
            "connectionState": "Disconnected",
            "cloudToDeviceMessageCount": 0,
            "lastActivityTime": "0001-01-01T00:00:00",
            **fields,
        }


@pytest.fixture
def family(shared_instance: Instance) -> Family:
    return Family(shared_instance)


def error(reply: Reply) -> tuple[int, str]:
    # A daemon needs to find its message as a string (edge.md 0.1).
    assert isinstance(reply.json["Message"], str)
    return reply.status, reply.headers["iothub-errorcode"]


def test_a_module_of_a_device_below(family: Family) -> None:
    made = family.ask(PUT, {"authChain": family.chain, "module": family.module("thermo")})
    # 200 for one that is made, too: the daemon below takes nothing else.
    assert (made.status, made.json["moduleId"]) == (200, "thermo")
    assert made.json["deviceId"] == family.child.device_id
    assert made.json["generationId"]
    again = family.ask(PUT, {"authChain": family.chain, "module": family.module("thermo")})
    assert error(again) == (409, "ModuleAlreadyExistsOnDevice")

    keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
    signed = {"type": "sas", "symmetricKey": keys}
    module = family.module("thermo", authentication=signed, managedBy="IotEdge")
    changed = family.ask(PUT, {"authChain": family.chain, "module": module}, if_match="*")
    assert changed.status == 200
    assert changed.json["generationId"] == made.json["generationId"]
    assert changed.json["authentication"]["symmetricKey"] == keys
    stale = family.ask(PUT, {"authChain": family.chain, "module": module}, if_match='"x"')
    assert stale.status == 412

    asked = {"authChain": family.chain, "targetModuleId": "thermo"}
    assert family.ask(GET, asked).json["authentication"]["symmetricKey"] == keys
    listed = family.ask(LIST, {"authChain": family.chain})
    assert {each["moduleId"] for each in listed.json} == {"$edgeAgent", "$edgeHub", "thermo"}

    gone = family.ask(DELETE, {"authChain": family.chain, "moduleId": "thermo"})
    assert (gone.status, gone.body) == (204, b"")
    assert error(family.ask(GET, asked)) == (404, "ModuleNotFound")
    missing = family.ask(DELETE, {"authChain": family.chain, "moduleId": "thermo"})
    assert error(missing) == (404, "ModuleNotFound")


def test_system_modules_are_given_keys_and_stay(family: Family) -> None:
    keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
    signed = {"type": "sas", "symmetricKey": keys}
    module = family.module("$edgeAgent", authentication=signed)
    changed = family.ask(PUT, {"authChain": family.chain, "module": module}, if_match="*")
    assert changed.json["authentication"]["symmetricKey"] == keys
    kept = family.ask(DELETE, {"authChain": family.chain, "moduleId": "$edgeAgent"})
    assert kept.status == 401


def test_two_levels_below(family: Family) -> None:
    chain = f"{family.grandchild.device_id};{family.chain}"
    module = family.module("deep", family.grandchild)
    assert family.ask(PUT, {"authChain": chain, "module": module}).status == 200
    found = family.ask(LIST, {"authChain": chain})
    assert {each["moduleId"] for each in found.json} == {"$edgeAgent", "$edgeHub", "deep"}


@pytest.mark.parametrize("operation", [PUT, GET, LIST, DELETE])
def test_nobody_acts_for_whom_he_is_not_above(family: Family, operation: str) -> None:
    top, child, stranger = (each.device_id for each in (family.top, family.child, family.stranger))
    chains = {
        "of a stranger": f"{stranger};{top}",
        "of a stranger through the child": f"{stranger};{child};{top}",
        "that leaves one out": f"{family.grandchild.device_id};{top}",
        "of himself": top,
        "that ends elsewhere": f"{child};{stranger}",
        "of a device that does not exist": f"nobody;{top}",
        "upwards": f"{top};{child}",
    }
    for what, chain in chains.items():
        module = family.module("$edgeAgent", deviceId=chain.partition(";")[0])
        body = {
            "authChain": chain,
            "module": module,
            "targetModuleId": "$edgeAgent",
            "moduleId": "$edgeAgent",
        }
        assert error(family.ask(operation, body)) == (403, "GenericForbidden"), what
    # Nor does the one below act for the one above, whatever the chain says.
    body["authChain"] = f"{top};{child}"
    method = "PUT" if operation == PUT else "POST"
    reply = family.child.ask(method, operation, body, api_version=NESTED)
    assert error(reply) == (403, "GenericForbidden")


@pytest.mark.parametrize("operation", [PUT, GET, LIST, DELETE])
@pytest.mark.parametrize("who", ["a wrong key", "the device's own key", "another edge hub"])
def test_only_the_edge_hub_itself_may_ask(family: Family, operation: str, who: str) -> None:
    body = {
        "authChain": family.chain,
        "module": family.module("x"),
        "targetModuleId": "$edgeHub",
        "moduleId": "x",
    }
    hub, top = family.top.hub, family.top.device_id
    resource = f"{hub.host}/devices/{top}/modules/$edgeHub"
    key = new_key()
    if who == "the device's own key":
        device = hub.must("GET", f"/devices/{top}")
        key, resource = device["authentication"]["symmetricKey"]["primaryKey"], resource[:-17]
    elif who == "another edge hub":
        key = family.stranger.key
        resource = f"{hub.host}/devices/{family.stranger.device_id}/modules/$edgeHub"
    path = f"/devices/{top}/modules/$edgeHub/{operation}"
    method = "PUT" if operation == PUT else "POST"
    reply = hub.call(method, path, body, authorization=token(resource, key), api_version=NESTED)
    assert error(reply) == (401, "IotHubUnauthorizedAccess")


@pytest.mark.parametrize("operation", [PUT, GET, LIST, DELETE])
def test_disabled_devices_are_not_acted_for(family: Family, operation: str) -> None:
    child = family.child.hub.must("GET", f"/devices/{family.child.device_id}")
    child["status"] = "disabled"
    family.child.hub.must("PUT", f"/devices/{family.child.device_id}", child, if_match="*")
    for edge, chain in (
        (family.child, family.chain),
        (family.grandchild, f"{family.grandchild.device_id};{family.chain}"),
    ):
        body = {
            "authChain": chain,
            "module": family.module("x", edge),
            "targetModuleId": "$edgeAgent",
            "moduleId": "x",
        }
        assert error(family.ask(operation, body)) == (403, "GenericForbidden")
    # The edge hub above is told so: it is to refuse them, too.
    reply = family.top.ask(
        "POST",
        "devicesAndModulesInTargetDeviceScope",
        {"pageSize": 10, "authChain": family.top.device_id},
        api_version=NESTED,
    )
    states = {each["deviceId"]: each["status"] for each in reply.json["devices"]}
    assert states[family.child.device_id] == "disabled"


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (PUT, b"{"),
        (PUT, {"authChain": "CHAIN"}),
        (PUT, {"authChain": "CHAIN", "module": []}),
        (PUT, {"authChain": "CHAIN", "module": {"moduleId": None}}),
        (PUT, {"authChain": "CHAIN", "module": {"moduleId": "a b"}}),
        (PUT, {"authChain": "CHAIN", "module": {"moduleId": "x", "deviceId": "another"}}),
        (PUT, {"authChain": "CHAIN", "module": {"moduleId": "x", "authentication": {"type": 1}}}),
        (GET, {"authChain": "CHAIN"}),
        (GET, {"authChain": 1, "targetModuleId": "x"}),
        (LIST, {}),
        (LIST, {"authChain": ""}),
        (LIST, {"authChain": ";CHAIN"}),
        (LIST, {"authChain": ";".join(["x"] * 200)}),
        (LIST, b"null"),
        (LIST, b'{"authChain": "\xff"}'),
        (DELETE, {"authChain": "CHAIN"}),
        (DELETE, b"[" * 1000),
    ],
)
def test_bodies_that_say_nothing(family: Family, operation: str, body: Any) -> None:
    if isinstance(body, dict) and isinstance(body.get("authChain"), str):
        body = {**body, "authChain": body["authChain"].replace("CHAIN", family.chain)}
    assert error(family.ask(operation, body))[0] == 400
    found = family.ask(LIST, {"authChain": family.chain}).json
    assert {each["moduleId"] for each in found} == {"$edgeAgent", "$edgeHub"}
