"""What an edge hub answers edge devices below it, over HTTPS (edge.md 6.3, 6.5)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.device import hub_token, unique
from support.edge_hub import EdgeDevice
from support.events import wait_for
from support.https import Reply, request
from support.secrets import new_key
from support.service import segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

SCOPE, ONE = "devicesAndModulesInTargetDeviceScope", "getDeviceAndModuleOnBehalfOf"
PUT, GET = "putModuleOnBehalfOf", "getModuleOnBehalfOf"
LIST, DELETE = "getModulesOnTargetDevice", "deleteModuleOnBehalfOf"


class Below:
    """An edge device that reaches nobody but the one above it.

    Args:
        edge: the one on top, whose edge hub runs.
        parent: scope of the one it is below.
    """

    def __init__(self, edge: EdgeDevice, parent: str) -> None:
        self.edge = edge
        self.hub = edge.hub
        self.device_id = unique("below")
        body = {"capabilities": {"iotEdge": True}, "parentScopes": [parent]}
        made = self.hub.must("PUT", f"/devices/{self.device_id}", body)
        self.scope: str = made["deviceScope"]
        self.key: str = made["authentication"]["symmetricKey"]["primaryKey"]

    @property
    def edge_hub_key(self) -> str:
        path = f"/devices/{self.device_id}/modules/{segment('$edgeHub')}"
        found = self.hub.must("GET", path)
        return str(found["authentication"]["symmetricKey"]["primaryKey"])

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Call with the device's own key, or with another token."""
        known = token or hub_token(self.hub.host, self.device_id, self.key)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return request(
            self.edge.place,
            self.edge.ca_file,
            method,
            path,
            host=self.edge.hostname,
            headers={"Authorization": known, **(headers or {})},
            body=data,
        )

    def modules(self, method: str, name: str = "", body: Any = None, **options: Any) -> Reply:
        """Call about its own modules, as its daemon does (edge.md 2.4)."""
        tail = f"/{segment(name)}" if name else ""
        path = f"/devices/{self.device_id}/modules{tail}?api-version=2017-11-08-preview"
        return self.call(method, path, body, **options)

    def behalf(self, operation: str, body: Any, **options: Any) -> Reply:
        """Call as its edge hub does."""
        who = f"{self.device_id}/$edgeHub"
        token = options.pop("token", None)
        if token is None:
            token = hub_token(self.hub.host, who, self.edge_hub_key)
        path = f"/devices/{options.pop('actor', self.device_id)}/modules/%24edgeHub/{operation}"
        method = "PUT" if operation == PUT else "POST"
        return self.call(
            method, f"{path}?api-version=2020-06-30-preview", body, token=token, **options
        )

    def named(self, name: str, **fields: Any) -> dict[str, Any]:
        return {"moduleId": name, "deviceId": self.device_id, **fields}

    def status(self, status: str) -> None:
        """Enable or disable it."""
        device = self.hub.must("GET", f"/devices/{self.device_id}")
        device["status"] = status
        self.hub.must("PUT", f"/devices/{self.device_id}", device, if_match="*")


@pytest.fixture
def edge(shared_instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    with EdgeDevice.make(shared_instance, tmp_path) as device:
        device.start()
        yield device


@pytest.fixture
def below(edge: EdgeDevice) -> Below:
    return Below(edge, edge.scope)


def devices(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [each["deviceId"] for each in reply.json["devices"]]


def wait_up(edge: EdgeDevice) -> None:
    wait_for(lambda: edge.view()["linkUp"], 60)


def test_a_daemon_makes_changes_and_deletes_a_module(below: Below) -> None:
    made = below.modules("PUT", "thermo", below.named("thermo", managedBy="IotEdge"))
    assert (made.status, made.json["authentication"]["type"]) == (200, "sas")
    keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
    signed = below.named("thermo", authentication={"type": "sas", "symmetricKey": keys})
    changed = below.modules("PUT", "thermo", signed, headers={"If-Match": "*"})
    assert changed.status == 200
    assert changed.json["authentication"]["symmetricKey"] == keys
    assert changed.json["generationId"] == made.json["generationId"]
    assert below.modules("GET", "thermo").json["managedBy"] == "IotEdge"
    listed = below.modules("GET")
    assert {each["moduleId"] for each in listed.json} == {"$edgeAgent", "$edgeHub", "thermo"}
    again = below.modules("PUT", "thermo", below.named("thermo"))
    # The hub's own words, as daemons read them.
    assert again.status == 409
    assert isinstance(again.json["Message"], str)
    gone = below.modules("DELETE", "thermo", headers={"If-Match": "*"})
    assert (gone.status, gone.body) == (204, b"")
    assert below.modules("GET", "thermo").status == 404
    assert below.modules("DELETE", "thermo").status == 404


def test_an_edge_hub_asks_for_its_scope(below: Below) -> None:
    below.hub.create_module(below.device_id, "thermo")
    leaves = [f"{below.device_id}-leaf-{number}" for number in range(3)]
    for leaf in leaves:
        below.hub.create_device(leaf, deviceScope=below.scope)
    pages, body = [], {"pageSize": 2, "authChain": below.device_id}
    while True:
        pages.append(below.behalf(SCOPE, body))
        # All three members are always there: the official edge hub insists.
        assert set(pages[-1].json) == {"devices", "modules", "continuationLink"}
        if pages[-1].json["continuationLink"] is None:
            break
        body = {**body, "continuationLink": pages[-1].json["continuationLink"]}
    assert len(pages) == 2
    found = {each["deviceId"]: each for page in pages for each in page.json["devices"]}
    assert list(found) == sorted([below.device_id, *leaves])
    for device in found.values():
        real = below.hub.must("GET", f"/devices/{device['deviceId']}")
        for member in ("generationId", "status", "deviceScope", "parentScopes", "capabilities"):
            assert device[member] == real[member], member
        known = device["authentication"]
        assert known["type"] == "sas"
        assert known["symmetricKey"] == real["authentication"]["symmetricKey"]
    modules = {each["moduleId"]: each for page in pages for each in page.json["modules"]}
    assert set(modules) == {"$edgeAgent", "$edgeHub", "thermo"}
    assert all(each["authentication"]["symmetricKey"] for each in modules.values())


def test_an_edge_hub_asks_for_who_is_new(below: Below) -> None:
    chain = {"authChain": below.device_id}
    assert devices(below.behalf(SCOPE, {"pageSize": 10, **chain})) == [below.device_id]
    leaf = f"{below.device_id}-new"
    key, _ = below.hub.create_device(leaf, deviceScope=below.scope)
    below.hub.create_module(below.device_id, "new")
    one = below.behalf(ONE, {"targetDeviceId": leaf, **chain})
    assert devices(one) == [leaf]
    assert one.json["devices"][0]["authentication"]["symmetricKey"]["primaryKey"] == key
    assert one.json["modules"] == []
    module = below.behalf(
        ONE, {"targetDeviceId": below.device_id, "targetModuleId": "new", **chain}
    )
    # A module comes with its device, as the hub tells it.
    assert devices(module) == [below.device_id]
    assert [each["moduleId"] for each in module.json["modules"]] == ["new"]
    for target in ("nobody", below.edge.device_id):
        assert below.behalf(ONE, {"targetDeviceId": target, **chain}).status == 404


def test_a_module_that_is_made_anew_is_known_at_once(below: Below) -> None:
    asked = {"authChain": below.device_id, "targetDeviceId": below.device_id}
    one = {**asked, "targetModuleId": "thermo"}
    assert below.behalf(ONE, one).status == 404
    generations = set()
    for _ in range(3):
        # However soon after the last question, which has been answered otherwise.
        assert below.modules("PUT", "thermo", below.named("thermo")).status == 200
        keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
        signed = below.named("thermo", authentication={"type": "sas", "symmetricKey": keys})
        below.modules("PUT", "thermo", signed, headers={"If-Match": "*"})
        (found,) = below.behalf(ONE, one).json["modules"]
        assert found["authentication"]["symmetricKey"] == keys
        generations.add(found["generationId"])
        assert below.modules("DELETE", "thermo").status == 204
        assert below.behalf(ONE, one).status == 404
    assert len(generations) == 3


def test_two_levels_below(edge: EdgeDevice, below: Below) -> None:
    deeper = Below(edge, below.scope)
    leaf = f"{deeper.device_id}-leaf"
    below.hub.create_device(leaf, deviceScope=deeper.scope)
    chain = f"{deeper.device_id};{below.device_id}"
    page = below.behalf(SCOPE, {"pageSize": 10, "authChain": chain})
    assert devices(page) == sorted([deeper.device_id, leaf])
    made = below.behalf(PUT, {"authChain": chain, "module": deeper.named("x")})
    assert (made.status, made.json["deviceId"]) == (200, deeper.device_id)
    listed = below.behalf(LIST, {"authChain": chain})
    assert {each["moduleId"] for each in listed.json} == {"$edgeAgent", "$edgeHub", "x"}
    found = below.behalf(GET, {"authChain": chain, "targetModuleId": "x"})
    assert found.json["generationId"] == made.json["generationId"]
    assert below.behalf(DELETE, {"authChain": chain, "moduleId": "x"}).status == 204
    one = below.behalf(ONE, {"targetDeviceId": leaf, "authChain": chain})
    assert devices(one) == [leaf]
    # Its own daemon may as well ask here, as when the one in between passes its calls on.
    assert deeper.modules("GET").status == 200


def test_a_device_of_somebody_else(edge: EdgeDevice, below: Below) -> None:
    other = edge.hub.must("PUT", f"/devices/{unique('other')}", {"capabilities": {"iotEdge": True}})
    strangers = [Below(edge, other["deviceScope"]) for _ in range(2)]
    wait_up(edge)
    for stranger in strangers:
        # Nobody knows it here, with whatever proof.
        assert stranger.modules("GET").status == 401
        reply = stranger.behalf(SCOPE, {"pageSize": 10, "authChain": stranger.device_id})
        assert reply.status == 401
        assert isinstance(reply.json["errorMessage"], str)
    for operation in (SCOPE, ONE, PUT, GET, LIST, DELETE):
        for chain in (
            strangers[0].device_id,
            f"{strangers[0].device_id};{below.device_id}",
            edge.device_id,
            f"{edge.device_id};{below.device_id}",
        ):
            body = {
                "authChain": chain,
                "module": below.named("x"),
                "moduleId": "x",
                "targetModuleId": "$edgeAgent",
                "targetDeviceId": strangers[0].device_id,
            }
            reply = below.behalf(operation, body)
            assert reply.status == 403, (operation, chain, reply.body)


def test_the_device_on_top_has_no_doors_for_itself(edge: EdgeDevice, below: Below) -> None:
    # Its own daemon asks the hub; whoever has its keys finds nothing more here.
    token = hub_token(edge.hub.host, edge.device_id, edge.key)
    path = f"/devices/{edge.device_id}/modules?api-version=2017-11-08-preview"
    assert below.call("GET", path, token=token).status == 403
    who = f"{edge.device_id}/$edgeHub"
    token = hub_token(edge.hub.host, who, edge.module_key("$edgeHub"))
    body = {"authChain": edge.device_id}
    assert below.behalf(LIST, body, token=token, actor=edge.device_id).status == 401


def test_only_with_the_proof_of_the_edge_hub(below: Below) -> None:
    body = {
        "authChain": below.device_id,
        "module": below.named("x"),
        "moduleId": "x",
        "targetModuleId": "$edgeAgent",
        "targetDeviceId": below.device_id,
    }
    host, who = below.hub.host, f"{below.device_id}/$edgeHub"
    below.hub.create_module(below.device_id, "thermo")
    for operation in (SCOPE, ONE, PUT, GET, LIST, DELETE):
        for token in (
            hub_token(host, who, new_key()),
            hub_token("elsewhere", who, below.edge_hub_key),
            hub_token(host, f"{below.device_id}/thermo", below.edge_hub_key),
            hub_token(host, who, below.edge_hub_key, ttl_s=-3600),
            "nonsense",
        ):
            reply = below.behalf(operation, body, token=token)
            assert reply.status == 401, (operation, token, reply.body)


def test_a_disabled_device_is_refused_and_comes_back(edge: EdgeDevice, below: Below) -> None:
    deeper = Below(edge, below.scope)
    assert below.modules("GET").status == 200
    below.status("disabled")
    wait_up(edge)
    refresh(edge)
    assert below.modules("GET").status == 403
    body = {"pageSize": 10, "authChain": below.device_id}
    assert below.behalf(SCOPE, body).status == 403
    # Whoever is below it is not spoken for, either.
    assert deeper.modules("GET").status == 403
    below.status("enabled")
    refresh(edge)
    assert below.modules("GET").status == 200
    assert deeper.modules("GET").status == 200


def refresh(edge: EdgeDevice) -> None:
    """Have the edge hub ask for its whole scope."""
    call = {"methodName": "RefreshDeviceScopeIdentityCache", "payload": {"deviceIds": []}}
    path = f"/twins/{edge.device_id}/modules/{segment('$edgeHub')}/methods"
    wait_for(lambda: edge.hub.call("POST", path, call).status == 200, 60)


def test_without_the_hub(edge: EdgeDevice, below: Below) -> None:
    leaf = f"{below.device_id}-leaf"
    below.hub.create_device(leaf, deviceScope=below.scope)
    chain = {"authChain": below.device_id}
    known = sorted([below.device_id, leaf])
    assert devices(below.behalf(SCOPE, {"pageSize": 10, **chain})) == known
    edge.proxy.cut()
    # What is known is told; for the rest 500 says that there is no link (edge.md 2.4).
    assert devices(below.behalf(SCOPE, {"pageSize": 10, **chain})) == known
    assert devices(below.behalf(ONE, {"targetDeviceId": leaf, **chain})) == [leaf]
    unknown = below.behalf(ONE, {"targetDeviceId": "nobody", **chain})
    listed = below.modules("GET")
    put = below.modules("PUT", "x", below.named("x"))
    for reply in (unknown, listed, put):
        assert reply.status == 500
        assert isinstance(reply.json["errorMessage"], str)
    edge.proxy.restore()
    wait_for(lambda: below.modules("GET").status == 200, 60)
    # It is on disk, too.
    edge.kill9()
    edge.proxy.cut()
    edge.start()
    assert devices(below.behalf(SCOPE, {"pageSize": 10, **chain})) == known


SAY_NOTHING: list[tuple[str, Any]] = [
    (SCOPE, b"{"),
    (SCOPE, b"null"),
    (SCOPE, {}),
    (SCOPE, {"authChain": ""}),
    (SCOPE, {"authChain": ";CHAIN"}),
    (SCOPE, {"authChain": "CHAIN/thermo;CHAIN"}),
    (SCOPE, {"authChain": "CHAIN", "pageSize": "many"}),
    (ONE, {"authChain": "CHAIN"}),
    (ONE, {"authChain": "CHAIN", "targetDeviceId": None}),
    (PUT, {"authChain": "CHAIN"}),
    (PUT, {"authChain": "CHAIN", "module": []}),
    (PUT, {"authChain": "CHAIN", "module": {"deviceId": "another", "moduleId": "x"}}),
    (PUT, {"authChain": "CHAIN", "module": {"moduleId": "a b"}}),
    (GET, {"authChain": "CHAIN"}),
    (DELETE, {"authChain": "CHAIN", "moduleId": 1}),
    (LIST, b'{"authChain": "\xff"}'),
    (LIST, b"[" * 1000),
]


def test_bodies_that_say_nothing(below: Below) -> None:
    for operation, body in SAY_NOTHING:
        sent = body
        if isinstance(body, dict) and "authChain" in body:
            sent = {**body, "authChain": body["authChain"].replace("CHAIN", below.device_id)}
        reply = below.behalf(operation, sent)
        assert reply.status == 400, (operation, body, reply.body)


def test_requests_that_say_nothing(below: Below) -> None:
    modules = f"/devices/{below.device_id}/modules"
    missing = below.call("GET", modules)
    assert (missing.status, missing.body) == (400, b"")
    assert missing.headers["iothub-errorcode"] == "InvalidProtocolVersion"
    for body in (b"{", b"[]", below.named("y"), {"moduleId": "x", "deviceId": "another"}, {}):
        assert below.modules("PUT", "x", body).status == 400
    assert below.modules("PUT", "x", b"x" * 100_000).status == 413
    assert below.modules("PATCH", "x", b"{}").status == 405
    assert below.call("GET", f"/devices/{below.device_id}?api-version=2017-11-08").status == 404
