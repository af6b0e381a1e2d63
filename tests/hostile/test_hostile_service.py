"""A running service under attack, while an honest device goes about its business.

Every attacker is a process of its own. Whatever it does, the honest device keeps registering,
sending and reporting on the connection it has, the service's memory and log stay small, and nobody
ever sees a 500. How long the honest rounds took is printed; no test here depends on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attacks
import pytest

from support.device import (
    dps_finish,
    dps_login,
    dps_register,
    hub_login,
    registration_token,
)
from support.secrets import CLOCK, new_key, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance
    from support.mqtt import MqttClient

HONEST: Final = "honest"
WILD: Final = "wild"
SECONDS: Final = 1.5
PATIENCE_S: Final = 120.0
"""How long an attack may last on a busy machine before the test gives up."""
MEMORY_KIB: Final = 96 * 1024
FEWEST = 5
"""Answers in the time an attack has: a busy machine gives few, but it gives them."""
LONGEST_LINE: Final = 2_000


class Honest:
    """A device that registers, sends and reports, round after round."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._key, _ = instance.dps.enroll(
            HONEST, allocationPolicy="static", iotHubs=[instance.place.hubs[0]]
        )
        self._client: MqttClient | None = None
        self._number = 0
        self.rounds: list[float] = []

    def round(self) -> None:
        began = CLOCK.monotonic()
        self._register()
        if self._client is None:
            # Stays: an attack that breaks this connection is told by the next round.
            self._client = hub_login(self._instance, HONEST, self._key)
            self._client.subscribe("$iothub/twin/res/#")
        self._number += 1
        self._client.publish(f"devices/{HONEST}/messages/events/", b"%d" % self._number)
        topic = f"$iothub/twin/PATCH/properties/reported/?$rid={self._number}"
        self._client.publish(topic, b'{"n":%d}' % self._number, 0)
        answer = self._client.answer()
        assert answer.topic.startswith(f"$iothub/twin/res/204/?$rid={self._number}&"), answer
        self.rounds.append(CLOCK.monotonic() - began)

    def _register(self) -> None:
        signed = registration_token(self._instance, HONEST, self._key)
        with dps_login(self._instance, HONEST, signed) as client:
            answer = dps_finish(client, dps_register(client))
        assert answer.status == 200
        assert answer.body["status"] == "assigned"

    def close(self) -> None:
        if self._client is not None:
            self._client.drop()


def target_of(instance: Instance) -> attacks.Target:
    """Make what an attacker may know, some of it worth having."""
    hub, dps, host = instance.hub(), instance.dps, instance.place.hubs[0]
    hub.create_device(WILD)
    for number in range(2):
        hub.create_module(WILD, f"loop{number}")
    place = instance.place
    return attacks.Target(
        address=place.address,
        https_port=place.https_port,
        mqtt_port=place.mqtt_port,
        amqp_port=place.amqp_port,
        dps=place.dps,
        hub=host,
        ca_file=str(instance.ca_file),
        id_scope=instance.id_scope,
        seconds=SECONDS,
        registration_id=HONEST,
        bad_token=registration_token(instance, HONEST, new_key()),
        dps_authorization=token(dps.host_name, dps.key, key_name=dps.key_name),
        hub_authorization=token(hub.host_name, hub.key, key_name=hub.key_name),
        device_id=WILD,
        device_token=token(host, hub.key, key_name=hub.key_name),
    )


def memory_kib(instance: Instance) -> int:
    assert instance.process is not None
    text = Path(f"/proc/{instance.process.pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Rss")).split()[1])


def log_lines(instance: Instance, start: int) -> list[str]:
    return [line for line in instance.log_text(start).splitlines() if line.strip()]


MOST_LINES: Final = {
    "odd_requests": 60,
    "headers": 20,
    "handshakes": 20,
    # Each broken connection has cost its peer a TLS handshake, and may have its line.
    "packets": 1_000,
    "loops": 15,
    "one_id": 30,
    "many_ids": 400,
    # Each broken connection may have its line.
    "amqp_frames": 2_000,
    "amqp_links": 400,
    "amqp_duel": 30,
}


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_attack(new_instance: Callable[..., Instance], name: str) -> None:
    instance = new_instance()
    target = target_of(instance)
    honest = Honest(instance)
    for _ in range(5):
        honest.round()
    honest.rounds.clear()
    before, start = memory_kib(instance), instance.log.stat().st_size
    most = before
    attacker = subprocess.Popen(
        [sys.executable, attacks.__file__, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert attacker.stdin is not None
    attacker.stdin.write(json.dumps(dataclasses.asdict(target)).encode())
    attacker.stdin.close()
    attacker.stdin = None
    end = CLOCK.monotonic() + PATIENCE_S
    try:
        while attacker.poll() is None:
            assert CLOCK.monotonic() < end
            honest.round()
            most = max(most, memory_kib(instance))
            time.sleep(0.05)
    finally:
        attacker.kill()
        said, _ = attacker.communicate()
    honest.round()
    honest.close()
    assert attacker.returncode == 0
    answers: dict[str, int] = json.loads(said)
    lines = log_lines(instance, start)
    print(
        f"{name}: {answers}; {len(honest.rounds)} honest rounds, slowest "
        f"{max(honest.rounds):.2f} s; {most - before} KiB more; {len(lines)} lines"
    )
    check_answers(answers)
    assert most - before < MEMORY_KIB
    check_log(lines, min(MOST_LINES[name], sum(answers.values())))


def check_answers(answers: dict[str, int]) -> None:
    assert sum(answers.values()) >= FEWEST, answers
    assert not [each for each in answers if each.startswith("5")], answers


def check_log(lines: list[str], most: int) -> None:
    assert len(lines) <= most, "\n".join(lines[:20])
    for line in lines:
        assert len(line) < LONGEST_LINE
        # A line that an attacker could break in two would not be JSON.
        event: dict[str, Any] = json.loads(line)
        assert event["level"] in ("info", "warning"), line
        assert "exception" not in event
