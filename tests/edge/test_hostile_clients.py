"""Clients of an edge hub that say to be the runtime itself, or that do not read what they get."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.wire.mqtt.packets import Puback, Publish
from support.amqp import AmqpClient
from support.device import hub_token
from support.edge_hub import EdgeDevice
from support.events import wait_for
from support.https import request
from support.mqtt import MqttClient
from support.service import segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

COUNT, SIZE = 400, 100_000
"""Of messages that nobody reads, and bytes of each."""
BOUND = 24 * 1024 * 1024
"""Bytes by which an edge hub may grow for one client that does not read."""
CALLS = 70
"""Enough, with what is in them, to be more than the kernel's buffers and ours."""
RUNTIME = ["$edgeHub", "$edgeAgent"]


@pytest.fixture
def edge(shared_instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    with EdgeDevice.make(shared_instance, tmp_path) as device:
        yield device


def log_in(edge: EdgeDevice, client: MqttClient, who: str, key: str, **options: bool) -> int:
    host = edge.hub.host
    user = f"{host}/{who}/?api-version=2021-04-12"
    return client.connect(who, user, hub_token(host, who, key), **options).return_code


# Who says to be the runtime.


@pytest.mark.parametrize("module_id", RUNTIME)
def test_nobody_else_is_a_part_of_the_runtime(edge: EdgeDevice, module_id: str) -> None:
    edge.desire(up="FROM /messages/* INTO $upstream")
    who = f"{edge.device_id}/{module_id}"
    # Its own key, and that of its device, which stands for any module.
    keys = [edge.module_key(module_id), edge.key]
    edge.start()
    edge.wait_applied()
    for key in keys:
        for websocket in (None, "mqtt"):
            with MqttClient(edge, edge.hostname, websocket=websocket) as client:
                assert log_in(edge, client, who, key) == 5
        with AmqpClient(edge, edge.hostname) as client:
            client.open()
            links = client.cbs()
            answer = client.put_token(links, hub_token(edge.hub.host, who, key))
            assert answer.application_properties["status-code"] == 401
        answer = request(
            edge.place,
            edge.ca_file,
            "POST",
            f"/twins/{edge.device_id}/modules/a/methods?api-version=2018-06-30",
            host=edge.hostname,
            headers={
                "Authorization": hub_token(edge.hub.host, who, key),
                "x-ms-edge-moduleId": who,
                "Content-Type": "application/json",
            },
            body=b'{"methodName": "ping", "payload": null, "connectTimeoutInSeconds": 0}',
        )
        assert answer.status == 401, answer.body
    # A token of the device opens no link of its runtime either.
    with AmqpClient(edge, edge.hostname) as client:
        client.log_in(hub_token(edge.hub.host, edge.device_id, edge.key))
        refused = client.refusal(
            sends=True,
            address=f"/devices/{edge.device_id}/modules/{segment(module_id)}/messages/events",
        )
        assert refused.error is not None
        assert refused.error.condition == "amqp:unauthorized-access"
    # The runtime's own session was not touched by any of it.
    assert edge.view()["linkUp"]
    assert edge.view()["clients"] == []
    assert edge.log.read_text().count("edge hub upstream") == 1


# Who does not read.


def memory(edge: EdgeDevice) -> int:
    assert edge.process is not None
    for line in Path(f"/proc/{edge.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def read_raw(client: MqttClient) -> None:
    """Take one byte from the wire, below TLS."""
    with socket.socket(fileno=os.dup(client._tls.fileno())) as wire:
        wire.recv(1)


def call_method(edge: EdgeDevice, key: str, target: str) -> int:
    """Call a method with much in it, as the module `sender`; return the status."""
    who = f"{edge.device_id}/sender"
    call = {"methodName": "m", "payload": "x" * 120_000, "responseTimeoutInSeconds": 5}
    answer = request(
        edge.place,
        edge.ca_file,
        "POST",
        f"/twins/{edge.device_id}/modules/{target}/methods?api-version=2018-06-30",
        host=edge.hostname,
        headers={
            "Authorization": hub_token(edge.hub.host, who, key),
            "x-ms-edge-moduleId": who,
            "Content-Type": "application/json",
        },
        body=json.dumps(call).encode(),
    )
    return answer.status


@contextlib.contextmanager
def three(edge: EdgeDevice) -> Iterator[tuple[dict[str, MqttClient], dict[str, str]]]:
    """Connect a sender, and two modules that get what it sends; return them and all keys."""
    names = ("sender", "slow", "quick")
    edge.desire(
        **{
            name: f'FROM /messages/* INTO BrokeredEndpoint("/modules/{name}/inputs/in")'
            for name in names[1:]
        }
    )
    keys = {name: edge.module_key(name) for name in names}
    edge.start()
    edge.wait_applied()
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in names:
            client = clients[name] = stack.enter_context(MqttClient(edge, edge.hostname))
            assert log_in(edge, client, f"{edge.device_id}/{name}", keys[name]) == 0
            client.subscribe(*filters(edge, name))
        yield clients, keys


def filters(edge: EdgeDevice, name: str) -> list[str]:
    return [f"devices/{edge.device_id}/modules/{name}/inputs/#", "$iothub/methods/POST/#"]


def pass_on(edge: EdgeDevice, clients: dict[str, MqttClient], number: int) -> None:
    """Send a large message, which the quick one gets, whatever the slow one does."""
    topic = f"devices/{edge.device_id}/modules/sender/messages/events/"
    clients["sender"].send(Publish(topic, b"%8d" % number + bytes(SIZE), 1, number + 1))
    assert int(clients["quick"].answer().payload[:8]) == number
    clients["sender"].expect(Puback)


def test_who_reads_nothing_costs_little_and_is_let_go(edge: EdgeDevice) -> None:
    with three(edge) as (clients, keys):
        before = memory(edge)
        for number in range(COUNT):
            pass_on(edge, clients, number)
        assert memory(edge) - before < BOUND < COUNT * SIZE
        # What it is told besides, and may not be held back, comes on top, up to a bound.
        with ThreadPoolExecutor(CALLS) as calls:
            found = list(
                calls.map(lambda _: call_method(edge, keys["sender"], "slow"), range(CALLS))
            )
        assert set(found) <= {404, 504}
        wait_for(lambda: "too slow a reader" in edge.log.read_text())
        pass_on(edge, clients, COUNT)
        # It has lost nothing by that.
        with MqttClient(edge, edge.hostname) as again:
            assert log_in(edge, again, f"{edge.device_id}/slow", keys["slow"]) == 0
            again.subscribe(*filters(edge, "slow"))
            for number in range(COUNT + 1):
                assert int(again.answer().payload[:8]) == number
    wait_for(lambda: not edge.view()["queues"], 60)


def test_who_reads_a_byte_a_second_is_let_go(edge: EdgeDevice) -> None:
    with three(edge) as (clients, _):
        before, number = memory(edge), 0
        while "messages are not acknowledged" not in edge.log.read_text():
            if number < COUNT:
                pass_on(edge, clients, number)
                number += 1
            else:
                read_raw(clients["slow"])
                time.sleep(1)
        assert memory(edge) - before < BOUND
        pass_on(edge, clients, number)
