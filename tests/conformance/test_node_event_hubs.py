"""The built-in endpoint with npm's `@azure/event-hubs`."""

from __future__ import annotations

import pytest
from test_python_eventhub import connection_string, created, send

from muster.hub.telemetry import DEFAULT_PARTITIONS, partition_of
from support.instance import Instance
from support.node import run_script, value_of
from support.secrets import new_key, remember


@pytest.mark.parametrize("websocket", [False, True], ids=["amqp", "amqp-ws"])
def test_reading(instance: Instance, subtests: pytest.Subtests, *, websocket: bool) -> None:
    device_id, key = created(instance, "node-events")
    bag = "%24.mid=m%201&%24.cid=c&%24.ct=application%2Fjson&%24.ce=utf-8&alErt=t%C3%BCr"
    send(instance, device_id, key, (bag, b'{"t": 21.5}'), ("", b"second"), ("", b"third"))
    login = connection_string(instance)
    policy_key = login.partition("SharedAccessKey=")[2].partition(";")[0]
    chosen = {"connectionString": login, "websocket": websocket, "device": device_id, "count": 3}
    wrong = {**chosen, "connectionString": login.replace(policy_key, remember(new_key()))}
    context = {"describe": chosen, "read": chosen, "wrongKey": wrong}
    results = run_script(instance, "event_hubs.js", context)
    partition = str(partition_of(device_id, DEFAULT_PARTITIONS))
    with subtests.test(msg="describe"):
        found = value_of(results, "describe")
        assert found["hub"]["name"] == instance.place.hubs[0]
        assert found["hub"]["partitionIds"] == [str(each) for each in range(DEFAULT_PARTITIONS)]
        assert found["partition"]["partitionId"] == "0"
    with subtests.test(msg="read"):
        found = value_of(results, "read")
        first, second, third = found["seen"]
        assert first["body"] == {"t": 21.5}
        assert (first["messageId"], first["correlationId"]) == ("m 1", "c")
        assert first["contentType"] == "application/json"
        assert first["properties"] == {"alErt": "tür"}
        assert {each["partition"] for each in found["seen"]} == {partition}
        assert first["systemProperties"]["iothub-message-source"] == "Telemetry"
        assert third["last"]["sequenceNumber"] >= third["sequenceNumber"]
        assert first["sequenceNumber"] < second["sequenceNumber"] < third["sequenceNumber"]
        assert [each["offset"] for each in found["byOffset"]] == [
            second["offset"],
            third["offset"],
        ]
        assert found["byNumber"][0]["offset"] == first["offset"]
    with subtests.test(msg="wrong key"):
        assert value_of(results, "wrongKey")["name"] == "MessagingError"
