"""Devices on the wire: how they log in to the provisioning service and to a hub (raw)."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.https import Reply, request
from support.mqtt import MqttClient
from support.secrets import token
from support.service import segment

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Connack, Will
    from support.certificates import ClientCertificate
    from support.instance import Instance

DPS_RESPONSES = "$dps/registrations/res/#"
API_VERSION = "2019-03-31"


def unique(prefix: str) -> str:
    """Make an id that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def registration_token(
    instance: Instance, registration_id: str, key: str, *, ttl_s: int = 3600
) -> str:
    """Sign for a registration as Python's SDK does but with `skn`, as most do."""
    resource = f"{instance.id_scope}/registrations/{registration_id}"
    return token(resource, key, ttl_s=ttl_s, key_name="registration")


# Provisioning over MQTT.


@dataclass(frozen=True)
class Answer:
    """One `$dps` response, its topic taken apart."""

    topic: str
    body: Any

    @property
    def status(self) -> int:
        return int(self.topic.split("/")[3])

    @property
    def query(self) -> str:
        return self.topic.partition("?")[2]


def dps_login(
    instance: Instance,
    registration_id: str,
    password: str | None,
    *,
    id_scope: str | None = None,
    username: str | None = None,
    client_id: str | None = None,
    websocket: str | None = None,
    clean_session: bool = True,
) -> MqttClient:
    """Connect and subscribe, which succeeds whatever the password (dps.md 0.6)."""
    client = MqttClient(instance, instance.place.dps, websocket=websocket)
    scope = id_scope or instance.id_scope
    name = f"{scope}/registrations/{registration_id}/api-version={API_VERSION}"
    connack = client.connect(
        registration_id if client_id is None else client_id,
        f"{name}&ClientVersion=tests%2F1" if username is None else username,
        password,
        clean_session=clean_session,
    )
    assert connack.return_code == 0, f"CONNACK {connack.return_code}"
    assert not connack.session_present
    assert client.subscribe(DPS_RESPONSES) == [1]
    return client


def dps_call(client: MqttClient, operation: str, payload: bytes, qos: int) -> Answer:
    """Ask for `PUT/iotdps-register/?$rid=…` or another operation and return the answer."""
    client.publish(f"$dps/registrations/{operation}", payload, qos)
    packet = client.answer()
    return Answer(packet.topic, json.loads(packet.payload))


def dps_register(
    client: MqttClient, payload: bytes = b"", *, rid: str | None = None, qos: int = 1
) -> Answer:
    operation = f"PUT/iotdps-register/?$rid={rid or uuid.uuid4()}"
    return dps_call(client, operation, payload, qos)


def dps_poll(
    client: MqttClient,
    operation_id: str,
    payload: bytes = b" ",
    *,
    rid: str | None = None,
    qos: int = 1,
) -> Answer:
    query = f"?$rid={rid or uuid.uuid4()}&operationId={operation_id}"
    return dps_call(client, f"GET/iotdps-get-operationstatus/{query}", payload, qos)


def dps_finish(client: MqttClient, first: Answer) -> Answer:
    """Poll a registration to its end."""
    assert first.status == 202, first
    while (answer := dps_poll(client, first.body["operationId"])).status == 202:
        assert answer.body["registrationState"]["registrationId"]
    return answer


# Provisioning over HTTPS.


def dps_http(
    instance: Instance,
    method: str,
    path: str,
    authorization: str | None,
    body: bytes | None = None,
    *,
    api_version: str | None = "2021-06-01",
    headers: dict[str, str] | None = None,
    id_scope: str | None = None,
) -> Reply:
    """Call `/{idScope}/registrations/{path}` on the device surface."""
    url = f"/{id_scope or instance.id_scope}/registrations/{path}"
    if api_version is not None:
        url += f"?api-version={api_version}"
    all_headers = {"Content-Type": "application/json"} if body is not None else {}
    if authorization is not None:
        all_headers["Authorization"] = authorization
    return request(
        instance.place,
        instance.ca_file,
        method,
        url,
        host=instance.place.dps,
        headers=all_headers | (headers or {}),
        body=body,
    )


def http_register(
    instance: Instance,
    registration_id: str,
    authorization: str | None,
    body: bytes | None = None,
    **options: Any,
) -> Reply:
    content = json.dumps({"registrationId": registration_id}).encode() if body is None else body
    path = f"{segment(registration_id)}/register"
    return dps_http(instance, "PUT", path, authorization, content, **options)


def http_finish(
    instance: Instance, registration_id: str, authorization: str, first: Reply
) -> Reply:
    """Poll a registration to its end."""
    assert first.status == 202, first
    operation = f"{segment(registration_id)}/operations/{first.json['operationId']}"
    while (reply := dps_http(instance, "GET", operation, authorization)).status == 202:
        assert reply.json["registrationState"]["registrationId"]
    return reply


# Hubs.


def hub_token(host: str, device: str, key: str, *, ttl_s: int = 3600) -> str:
    """Sign for `device` or `device/module`."""
    device_id, _, module_id = device.partition("/")
    resource = f"{host}/devices/{device_id}" + (f"/modules/{module_id}" if module_id else "")
    return token(resource, key, ttl_s=ttl_s)


def hub_connect(
    instance: Instance,
    device: str,
    password: str | None,
    *,
    host: str | None = None,
    username: str | None = None,
    client_id: str | None = None,
    websocket: str | None = None,
    clean_session: bool = True,
    keep_alive_s: int = 60,
    will: Will | None = None,
    level: int = 4,
    query: str = "",
    certificate: ClientCertificate | None = None,
) -> tuple[MqttClient, Connack]:
    """Connect as `device` or `device/module` and return whatever CONNACK came."""
    hub = host or instance.place.hubs[0]
    client = MqttClient(instance, hub, websocket=websocket, query=query, certificate=certificate)
    name = f"{hub}/{device}/?api-version=2021-04-12&DeviceClientType=tests"
    connack = client.connect(
        device if client_id is None else client_id,
        name if username is None else username,
        password,
        clean_session=clean_session,
        keep_alive_s=keep_alive_s,
        will=will,
        level=level,
    )
    return client, connack


def hub_login(instance: Instance, device: str, key: str, **options: Any) -> MqttClient:
    """Connect as `device` or `device/module` with its key."""
    host = options.get("host") or instance.place.hubs[0]
    client, connack = hub_connect(instance, device, hub_token(host, device, key), **options)
    assert connack.return_code == 0, f"CONNACK {connack.return_code}"
    return client
