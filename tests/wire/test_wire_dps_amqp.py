"""Provisioning over AMQP as the SDKs speak it (dps.md 1.4)."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp import bodies, messages
from muster.wire.amqp.frames import AMQP_HEADER, SASL_FRAME, SASL_HEADER, frame
from muster.wire.amqp.messages import AmqpValue, Data, Message, Properties
from muster.wire.amqp.performatives import (
    Accepted,
    Close,
    Detach,
    Open,
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
)
from muster.wire.amqp.sasl import AUTH
from muster.wire.amqp.types import Int
from support.amqp import AmqpClient
from support.device import registration_token, unique
from support.secrets import new_key

if TYPE_CHECKING:
    from support.instance import Instance


def connect(
    instance: Instance, registration_id: str, sas: str, *, websocket: str | None = None
) -> AmqpClient:
    """Say with SASL who one is, which always succeeds."""
    client = AmqpClient(instance, instance.place.dps, websocket=websocket)
    user = f"{instance.id_scope}/registrations/{registration_id}"
    assert client.sasl("PLAIN", f"\0{user}\0{sas}".encode()) == 0
    return client


def enrolled(instance: Instance) -> tuple[str, str]:
    registration_id = unique("amqp-dps")
    key, _ = instance.dps.enroll(registration_id)
    return registration_id, key


class Links:
    """Both links of a registration."""

    def __init__(self, client: AmqpClient, address: str) -> None:
        self.client = client
        # As all SDKs do: first the way back.
        self.receives = client.receiver(address)
        self.sends = client.sender(address)

    def ask(self, kind: str, body: Any, correlation_id: Any = None, **properties: Any) -> Message:
        number = self.send(kind, body, correlation_id, **properties)
        assert self.client.outcome(number).state == Accepted()
        return self.client.message(self.receives).message

    def send(self, kind: str, body: Any, correlation_id: Any = None, **properties: Any) -> int:
        request = Message(
            body,
            Properties(correlation_id=correlation_id),
            {"iotdps-operation-type": kind, **properties},
        )
        return self.client.transfer(self.sends, messages.encode(request))


@pytest.mark.parametrize("websocket", [None, "/$iothub/websocket"])
@pytest.mark.parametrize("form", ["{path}", "amqps://{host}/{path}", "{PATH}"])
def test_a_device_registers(instance: Instance, form: str, websocket: str | None) -> None:
    registration_id, key = enrolled(instance)
    path = f"{instance.id_scope}/registrations/{registration_id}"
    sas = registration_token(instance, registration_id, key)
    with connect(instance, registration_id, sas, websocket=websocket) as client:
        client.open()
        address = form.format(path=path, PATH=path.upper(), host=instance.place.dps)
        links = Links(client, address)
        number = uuid.uuid4()
        body = Data([json.dumps({"registrationId": registration_id}).encode()])
        answer = links.ask("iotdps-register", body, number, **{"iotdps-forceRegistration": False})
        assert answer.properties.correlation_id == number
        for name in ("retry-after", "Retry-After"):
            assert type(answer.application_properties[name]) is Int
        began = json.loads(answer.data)
        assert began["status"] == "assigning"
        # As C# does: with an empty string, and the same correlation-id again.
        poll = {"iotdps-operation-id": began["operationId"]}
        answer = links.ask("iotdps-get-operationstatus", AmqpValue(""), number, **poll)
        assert answer.application_properties == {}
        done = json.loads(answer.data)
        assert done["status"] == "assigned"
        assert done["registrationState"]["deviceId"] == registration_id
        assert done["registrationState"]["assignedHub"] in instance.place.hubs
        found = json.loads(links.ask("iotdps-get-registration", None).data)
        assert found["registrationId"] == registration_id


def test_a_body_may_be_missing_and_so_may_the_correlation_id(instance: Instance) -> None:
    registration_id, key = enrolled(instance)
    path = f"{instance.id_scope}/registrations/{registration_id}"
    sas = registration_token(instance, registration_id, key)
    with connect(instance, registration_id, sas) as client:
        client.open()
        answer = Links(client, path).ask("iotdps-register", None)
        assert answer.properties.correlation_id is None
        assert json.loads(answer.data)["status"] == "assigning"


def test_a_wrong_key_is_told_in_the_answer_to_open(instance: Instance) -> None:
    registration_id, _ = enrolled(instance)
    sas = registration_token(instance, registration_id, new_key())
    with connect(instance, registration_id, sas) as client:
        client.send_bytes(AMQP_HEADER)
        assert client.header() == AMQP_HEADER
        client.send(Open("tests", client.host))
        opened = client.find(Open)
        error = (opened.properties or {})["com.microsoft:open-error"]
        condition, description, info = error.value
        assert condition == "amqp:unauthorized-access"
        body = json.loads(description)
        assert body["errorCode"] == 401002
        assert info == {}
        closed = client.find(Close)
        assert closed.error is not None
        assert (closed.error.condition, closed.error.description) == (condition, description)
    assert instance.explain(body["trackingId"])[0]["check"] == "wrong-key"
    assert instance.explain(registration_id)[0]["facts"]["transport"] == "amqp"


@pytest.mark.parametrize(
    ("kind", "body", "condition", "number"),
    [
        ("iotdps-register", b'{"registrationId":"other"}', "com.microsoft:argument-error", 400004),
        ("iotdps-register", b"no json", "com.microsoft:argument-error", 400004),
        ("iotdps-unregister", b"{}", "com.microsoft:argument-error", 400004),
        ("iotdps-get-operationstatus", b"", "amqp:not-found", 404000),
    ],
)
def test_what_is_refused_is_rejected(
    instance: Instance, kind: str, body: bytes, condition: str, number: int
) -> None:
    registration_id, key = enrolled(instance)
    path = f"{instance.id_scope}/registrations/{registration_id}"
    sas = registration_token(instance, registration_id, key)
    with connect(instance, registration_id, sas) as client:
        client.open()
        links = Links(client, path)
        state = client.outcome(links.send(kind, Data([body]))).state
        assert isinstance(state, Rejected)
        assert state.error is not None
        assert state.error.condition == condition
        said = json.loads(state.error.description or "")
        assert said["errorCode"] // 1000 == number // 1000
        assert said["trackingId"]


def test_links_of_another_registration_are_refused(instance: Instance) -> None:
    registration_id, key = enrolled(instance)
    sas = registration_token(instance, registration_id, key)
    with connect(instance, registration_id, sas) as client:
        client.open()
        address = f"{instance.id_scope}/registrations/{unique('other')}"
        detach = client.refusal(sends=True, address=address)
        assert isinstance(detach, Detach)
        assert detach.error is not None
        assert detach.error.condition == "amqp:not-found"


def test_devices_with_certificates_are_unauthorized(instance: Instance) -> None:
    """They come without SASL (dps.md 1.4)."""
    with AmqpClient(instance, instance.place.dps) as client:
        client.open()
        address = f"{instance.id_scope}/registrations/{unique('x509')}"
        error = client.refusal(sends=False, address=address).error
        assert error is not None
        assert error.condition == "amqp:unauthorized-access"


def test_the_mechanism_of_tpms_is_not_offered(instance: Instance) -> None:
    with AmqpClient(instance, instance.place.dps) as client:
        client.send_bytes(SASL_HEADER)
        assert client.header() == SASL_HEADER
        assert "TPM" not in client.find(SaslMechanisms).sasl_server_mechanisms
        identity = f"\0{instance.id_scope}\0{unique('tpm')}\0key".encode()
        client.send_bytes(frame(0, bodies.encode(SaslInit("TPM", identity)), frame_type=SASL_FRAME))
        assert client.find(SaslOutcome).code == AUTH
