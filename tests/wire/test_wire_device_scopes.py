"""What an edge hub asks the hub at its start, as it asks it (edge.md 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from support.device import unique
from support.secrets import new_key, token
from support.service import segment

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance

OLD, NESTED = "2018-08-30-preview", "2020-06-30-preview"


class Edge:
    """An edge device with leaf devices below it."""

    def __init__(self, instance: Instance, leaves: int = 0, parent: Edge | None = None) -> None:
        self.hub = instance.hub()
        self.device_id = unique("edge")
        body: dict[str, Any] = {"capabilities": {"iotEdge": True}}
        if parent is not None:
            body["parentScopes"] = [parent.scope]
        made = self.hub.must("PUT", f"/devices/{self.device_id}", body)
        self.scope: str = made["deviceScope"]
        self.leaves = [f"{self.device_id}-leaf-{number:02}" for number in range(leaves)]
        for leaf in self.leaves:
            self.hub.must("PUT", f"/devices/{leaf}", {"deviceScope": self.scope})
        found = self.hub.must("GET", f"/devices/{self.device_id}/modules/$edgeHub")
        self.key: str = found["authentication"]["symmetricKey"]["primaryKey"]

    def ask(self, method: str, operation: str, body: Any = None, **options: Any) -> Reply:
        """Call as the `$edgeHub` module of the device does, with a lower-cased audience."""
        module = f"/devices/{self.device_id}/modules/$edgeHub"
        signed = token(f"{self.hub.host}{module}".lower(), options.pop("key", self.key))
        path = f"/devices/{segment(self.device_id)}/modules/%24edgeHub/{operation}"
        return self.hub.call(method, path, body, authorization=signed, **options)


def devices(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [each["deviceId"] for each in reply.json["devices"] or []]


def test_the_whole_scope_page_by_page(shared_instance: Instance) -> None:
    edge = Edge(shared_instance, leaves=12)
    Edge(shared_instance, leaves=1)
    reply = edge.ask(
        "GET", "devicesAndModulesInDeviceScope?deviceCount=5&continuationToken=", api_version=OLD
    )
    pages = [reply.json]
    while (link := pages[-1]["continuationLink"]) is not None:
        # The link is an address of its own.
        query = dict(parse_qsl(urlsplit(link).query))
        assert query["api-version"] == OLD
        operation = link.rpartition("/")[2].partition("&api-version")[0]
        pages.append(edge.ask("GET", operation, api_version=OLD).json)
    found = [device for page in pages for device in page["devices"] or []]
    assert [each["deviceId"] for each in found] == sorted([edge.device_id, *edge.leaves])
    assert len(pages) == 3
    assert set(pages[-1]) == {"devices", "modules", "continuationLink"}
    for each in found:
        assert each["authentication"]["symmetricKey"]["primaryKey"]
        assert each["capabilities"]["iotEdge"] is (each["deviceId"] == edge.device_id)
        assert each["deviceScope"] == edge.scope
    modules = [module for page in pages for module in page["modules"] or []]
    assert sorted(each["moduleId"] for each in modules) == ["$edgeAgent", "$edgeHub"]
    assert all(each["authentication"]["symmetricKey"]["primaryKey"] for each in modules)


def test_one_identity(shared_instance: Instance) -> None:
    edge, other = Edge(shared_instance, leaves=1), Edge(shared_instance, leaves=1)
    one = "deviceAndModuleInDeviceScope?targetDeviceId={}&targetModuleId={}"
    leaf = edge.ask("GET", one.format(edge.leaves[0], ""), api_version=OLD)
    assert (devices(leaf), leaf.json["modules"]) == (edge.leaves, None)
    agent = edge.ask("GET", one.format(edge.device_id, "$edgeAgent"), api_version=OLD)
    assert [each["moduleId"] for each in agent.json["modules"]] == ["$edgeAgent"]
    assert edge.ask("GET", one.format(other.leaves[0], ""), api_version=OLD).status == 404
    assert edge.ask("GET", one.format(edge.device_id, "nope"), api_version=OLD).status == 404


def test_nested(shared_instance: Instance) -> None:
    top = Edge(shared_instance, leaves=1)
    below = Edge(shared_instance, leaves=2, parent=top)
    stranger = Edge(shared_instance)
    scope, single = "devicesAndModulesInTargetDeviceScope", "getDeviceAndModuleOnBehalfOf"
    own = top.ask("POST", scope, {"pageSize": 10, "authChain": top.device_id}, api_version=NESTED)
    assert sorted(devices(own)) == sorted([top.device_id, below.device_id, *top.leaves])
    chain = f"{below.device_id};{top.device_id}"
    first = top.ask("POST", scope, {"pageSize": 2, "authChain": chain}, api_version=NESTED)
    rest = top.ask(
        "POST",
        scope,
        {"pageSize": 2, "authChain": chain, "continuationLink": first.json["continuationLink"]},
        api_version=NESTED,
    )
    assert [*devices(first), *devices(rest)] == sorted([below.device_id, *below.leaves])
    assert rest.json["continuationLink"] is None
    leaf = below.leaves[0]
    for asked in (f"{leaf};{chain}", chain):
        body = {"targetDeviceId": leaf, "targetModuleId": None, "authChain": asked}
        assert devices(top.ask("POST", single, body, api_version=NESTED)) == [leaf]
    for wrong in (below.device_id, f"{stranger.device_id};{top.device_id}", "a;b;c"):
        reply = top.ask("POST", scope, {"pageSize": 2, "authChain": wrong}, api_version=NESTED)
        assert reply.status == 403


@pytest.mark.parametrize("who", ["another edge hub", "a wrong key", "a leaf device"])
def test_who_may_not_ask(shared_instance: Instance, who: str) -> None:
    edge, other = Edge(shared_instance, leaves=1), Edge(shared_instance)
    operation = "devicesAndModulesInDeviceScope?deviceCount=5"
    if who == "a leaf device":
        leaf = edge.hub.must("GET", f"/devices/{edge.leaves[0]}")
        key = leaf["authentication"]["symmetricKey"]["primaryKey"]
        signed = token(f"{edge.hub.host}/devices/{edge.leaves[0]}", key)
        path = f"/devices/{edge.device_id}/modules/$edgeHub/{operation}"
        reply = edge.hub.call("GET", path, authorization=signed, api_version=OLD)
    elif who == "a wrong key":
        reply = edge.ask("GET", operation, api_version=OLD, key=other.key)
    else:
        edge.device_id, mine = other.device_id, edge.device_id
        signed = token(f"{edge.hub.host}/devices/{mine}/modules/$edgeHub", edge.key)
        path = f"/devices/{other.device_id}/modules/$edgeHub/{operation}"
        reply = edge.hub.call("GET", path, authorization=signed, api_version=OLD)
    assert reply.status == 401
    assert reply.headers["iothub-errorcode"] == "IotHubUnauthorizedAccess"


@pytest.mark.parametrize("version", ["2017-11-08-preview", "2021-04-12"])
def test_a_daemon_makes_changes_and_deletes_a_module(
    shared_instance: Instance, version: str
) -> None:
    # Both daemons, with the device's own key and a lower-cased audience (edge.md 2.2, 2.4).
    edge = Edge(shared_instance)
    device = edge.hub.must("GET", f"/devices/{edge.device_id}")
    key = device["authentication"]["symmetricKey"]["primaryKey"]
    path = f"/devices/{edge.device_id}/modules/thermo"

    def call(method: str, body: Any = None, **options: Any) -> Reply:
        signed = token(f"{edge.hub.host}/devices/{edge.device_id}".lower(), key)
        return edge.hub.call(
            method,
            options.pop("at", path),
            body,
            authorization=signed,
            api_version=version,
            **options,
        )

    body = {"moduleId": "thermo", "deviceId": edge.device_id}
    made = call("PUT", {**body, "managedBy": "IotEdge", "authentication": {"type": "none"}})
    assert (made.status, made.json["authentication"]["type"]) == (200, "none")
    keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
    signed = {"type": "sas", "symmetricKey": keys}
    changed = call("PUT", {**body, "authentication": signed}, if_match="*")
    assert changed.status == 200
    assert changed.json["generationId"] == made.json["generationId"]
    assert changed.json["authentication"]["symmetricKey"] == keys
    assert changed.json["managedBy"] == "IotEdge"
    listed = call("GET", at=f"/devices/{edge.device_id}/modules")
    assert {each["moduleId"] for each in listed.json} == {"$edgeAgent", "$edgeHub", "thermo"}
    assert call("GET").json["moduleId"] == "thermo"
    gone = call("DELETE", if_match="*")
    assert (gone.status, gone.body) == (204, b"")
    missing = call("GET")
    assert (missing.status, missing.headers["iothub-errorcode"]) == (404, "ModuleNotFound")
