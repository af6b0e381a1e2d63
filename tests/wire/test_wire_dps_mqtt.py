"""The provisioning service over MQTT and MQTT-WS, to the letter (dps.md 1.3, 6.3, 8, 9)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import InvalidHandshake

from muster.wire.mqtt.packets import Publish, Unsuback, Unsubscribe
from support.device import (
    DPS_RESPONSES,
    dps_finish,
    dps_login,
    dps_poll,
    dps_register,
    registration_token,
    unique,
)
from support.mqtt import MqttClient
from support.secrets import derive, new_key, token

if TYPE_CHECKING:
    from support.device import Answer
    from support.instance import Instance


def enrolled(instance: Instance, prefix: str = "mqtt", **fields: Any) -> tuple[str, str]:
    """Enroll a device and return its id and a token."""
    registration_id = unique(prefix)
    key, _ = instance.dps.enroll(registration_id, **fields)
    return registration_id, registration_token(instance, registration_id, key)


def is_error(answer: Answer, status: int, *codes: int) -> None:
    assert answer.status == status, answer
    assert (
        answer.body["errorCode"] in codes if codes else (answer.body["errorCode"] // 1000 == status)
    )
    assert answer.body["trackingId"]
    assert answer.body["message"]
    assert answer.body["timestampUtc"].endswith("Z")


def test_the_sequence_of_python(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed, clean_session=False) as client:
        body = json.dumps({"payload": None, "registrationId": registration_id}).encode()
        rid = "8d3b1d0c-3f5e-4b7f-8a55-2b2e4d1c9e11"
        first = dps_register(client, body, rid=rid)
        assert first.topic.startswith(f"$dps/registrations/res/202/?$rid={rid}&retry-after=")
        assert first.topic.count("$") == 2
        assert int(first.topic.rpartition("=")[2]) >= 1
        assert first.body == {"operationId": first.body["operationId"], "status": "assigning"}
        last = dps_finish(client, first)
        assert last.status == 200
        assert last.body["status"] == "assigned"
        state = last.body["registrationState"]
        assert state["deviceId"] == registration_id
        assert state["substatus"] == "initialAssignment"
        # Finished operations stay pollable.
        assert dps_finish(client, first).body == last.body
        client.disconnect()


@pytest.mark.parametrize("rid", ["1", "a%2Fb%20c", "Ünïcode", "x.y~z-_!*'()"])
def test_rids_come_back_as_they_were_sent(instance: Instance, rid: str) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        first = dps_register(client, rid=rid)
        assert first.query.startswith(f"$rid={rid}&retry-after=")
        poll = dps_poll(client, first.body["operationId"], rid=rid)
        assert poll.query.split("&")[0] == f"$rid={rid}"


@pytest.mark.parametrize("payload", [b"", b" ", b"null", b"{}"], ids=repr)
def test_a_poll_may_have_any_body(instance: Instance, payload: bytes) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        first = dps_register(client, payload)
        assert first.status == 202
        assert dps_poll(client, first.body["operationId"], payload).status in (200, 202)


def test_operation_ids_may_be_encoded(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        operation_id = dps_register(client).body["operationId"]
        encoded = operation_id.replace(".", "%2E").replace("-", "%2d")
        assert dps_poll(client, encoded).status in (200, 202)


def test_java_publishes_at_qos_0(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        first = dps_register(client, b'{"registrationId":"%s"}' % registration_id.encode(), qos=0)
        assert first.status == 202
        assert dps_poll(client, first.body["operationId"], b"", qos=0).status in (200, 202)
        # No PUBACK came in between: the answers were the next packets.


def test_answers_come_with_the_qos_of_the_subscription(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        client.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", b"{}")
        assert client.answer().qos == 1
        assert client.subscribe(DPS_RESPONSES, qos=2) == [1]
        assert client.subscribe(DPS_RESPONSES, qos=0) == [0]
        client.publish("$dps/registrations/PUT/iotdps-register/?$rid=2", b"{}")
        assert client.answer().qos == 0


@pytest.mark.parametrize("spelling", ["mqtt", "MQTT"])
def test_the_subprotocol_is_echoed_as_it_was_offered(instance: Instance, spelling: str) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed, websocket=spelling) as client:
        assert client.subprotocol == spelling
        assert dps_finish(client, dps_register(client)).body["status"] == "assigned"


def test_the_websocket_address_may_have_a_query(instance: Instance) -> None:
    query = "?iothub-no-client-cert=true"
    with MqttClient(instance, instance.place.dps, websocket="mqtt", query=query) as client:
        assert client.subprotocol == "mqtt"


def test_an_unknown_subprotocol_is_refused(instance: Instance) -> None:
    with pytest.raises(InvalidHandshake):
        MqttClient(instance, instance.place.dps, websocket="mqtt5-of-tomorrow")


def test_node_unsubscribes_before_it_leaves(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        client.send(Unsubscribe(77, [DPS_RESPONSES]))
        assert client.expect(Unsuback).packet_id == 77
        client.disconnect()


def test_a_new_connection_takes_over_the_old_one(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with (
        dps_login(instance, registration_id, signed) as old,
        dps_login(instance, registration_id, signed) as new,
    ):
        old.expect_closed()
        assert dps_register(new).status == 202


def test_a_user_name_without_extras_is_enough(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    name = f"{instance.id_scope.lower()}/registrations/{registration_id}/api-version=2018-11-01"
    with dps_login(instance, registration_id, signed, username=name) as client:
        assert dps_register(client).status == 202


def test_retry_after_and_group_devices(instance: Instance) -> None:
    group_id, registration_id = unique("mqtt-group"), unique("member")
    _, group_key = instance.dps.enroll_group(group_id)
    signed = registration_token(instance, registration_id, derive(group_key, registration_id))
    with dps_login(instance, registration_id, signed) as client:
        last = dps_finish(client, dps_register(client))
        assert last.body["registrationState"]["symmetricKey"]["enrollmentGroupId"] == group_id


# Refusals. A bad token is not refused at CONNECT (dps.md 0.6), which `dps_login` checks.


def test_unauthorized(instance: Instance, subtests: pytest.Subtests) -> None:
    registration_id = unique("refused")
    key, _ = instance.dps.enroll(registration_id)
    stranger = unique("stranger")
    group_key, _ = instance.dps.enroll_group(unique("mqtt-group"))
    resource = f"{instance.id_scope}/registrations/{registration_id}"
    passwords = {
        "wrong key": (registration_id, token(resource, new_key())),
        "expired": (registration_id, token(resource, key, ttl_s=-3600)),
        "wrong key name": (registration_id, token(resource, key, key_name="owner")),
        "not a token": (registration_id, "password"),
        "none": (registration_id, None),
        "unknown": (stranger, registration_token(instance, stranger, new_key())),
        "group key": (stranger, registration_token(instance, stranger, group_key)),
    }
    for name, (who, password) in passwords.items():
        with subtests.test(msg=name), dps_login(instance, who, password) as client:
            answer = dps_register(client, rid="r1")
            is_error(answer, 401, 401000, 401002)
            assert answer.query.startswith("$rid=r1")
            poll = dps_poll(client, "5.0123456789abcdef.00000000-0000-0000-0000-000000000000")
            is_error(poll, 401, 401000, 401002)


def test_a_wrong_id_scope_is_unauthorized(instance: Instance) -> None:
    registration_id = unique("scope")
    key, _ = instance.dps.enroll(registration_id)
    signed = token(f"0ne00000BAD/registrations/{registration_id}", key)
    with dps_login(instance, registration_id, signed, id_scope="0ne00000BAD") as client:
        is_error(dps_register(client), 401, 401000, 401002)


def test_bad_requests(instance: Instance, subtests: pytest.Subtests) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        with subtests.test(msg="malformed JSON"):
            is_error(dps_register(client, b"{"), 400)
        with subtests.test(msg="another id in the body"):
            is_error(dps_register(client, b'{"registrationId":"another"}'), 400, 400004)
        with subtests.test(msg="unknown operation"):
            is_error(dps_poll(client, "5.0123456789abcdef.nothing"), 404)
        with subtests.test(msg="all is well afterwards"):
            assert dps_register(client).status == 202


def test_another_registrations_operation_is_unknown(instance: Instance) -> None:
    mine, signed = enrolled(instance)
    other, other_signed = enrolled(instance)
    with (
        dps_login(instance, mine, signed) as client,
        dps_login(instance, other, other_signed) as thief,
    ):
        operation_id = dps_register(client).body["operationId"]
        is_error(dps_poll(thief, operation_id), 404)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/registrations/{}", 404), ("/enrollments/{}", 401)],
    ids=["record", "enrollment"],
)
def test_a_poll_sees_what_an_operator_did(instance: Instance, path: str, status: int) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        operation_id = dps_register(client).body["operationId"]
        assert dps_poll(client, operation_id).status == 200
        instance.dps.must("DELETE", path.format(registration_id))
        assert dps_poll(client, operation_id).status == status


def test_a_poll_of_an_earlier_operation_has_the_latest_outcome(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        operations = [dps_register(client).body["operationId"] for _ in range(2)]
        answers = [dps_poll(client, operation_id) for operation_id in operations]
    assert [answer.body["operationId"] for answer in answers] == operations
    states = [answer.body["registrationState"] for answer in answers]
    assert states[0] == states[1]


def test_a_malformed_id_is_a_bad_request(instance: Instance) -> None:
    bad_id = "bad id"
    signed = registration_token(instance, bad_id, new_key())
    with dps_login(instance, bad_id, signed) as client:
        is_error(dps_register(client), 400, 400004)


def test_disabled_and_failed_are_results_not_errors(instance: Instance) -> None:
    registration_id, signed = enrolled(instance, provisioningStatus="disabled")
    with dps_login(instance, registration_id, signed) as client:
        last = dps_finish(client, dps_register(client))
        assert (last.status, last.body["status"]) == (200, "disabled")
        assert last.body["registrationState"]["registrationId"] == registration_id
    registration_id, signed = enrolled(
        instance, allocationPolicy="static", iotHubs=["gone.muster.localhost"]
    )
    with dps_login(instance, registration_id, signed) as client:
        last = dps_finish(client, dps_register(client))
        assert (last.status, last.body["status"]) == (200, "failed")
        assert last.body["registrationState"]["errorCode"] == 400208


# What no client of the service may do.


def test_other_topics_end_the_connection(instance: Instance) -> None:
    for topic in ("$dps/registrations/POST/x/?$rid=1", "devices/x/messages/events/", "a"):
        registration_id, signed = enrolled(instance)
        with dps_login(instance, registration_id, signed) as client:
            client.send(Publish(topic, b"{}", 1, 9))
            client.expect_closed()


def test_qos_2_ends_the_connection(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    with dps_login(instance, registration_id, signed) as client:
        client.send(Publish("$dps/registrations/PUT/iotdps-register/?$rid=1", b"{}", 2, 9))
        client.expect_closed()
