"""Nothing that was acknowledged to a device is lost on its way to files and webhooks.

The service and the webhook's receiver are killed at random moments, again and again. What was
handed over just before may come twice, and then it is the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service_load import Load, Sender, body_of

from support.device import unique
from support.events import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

    NewInstance = Callable[..., Instance]

KILLS: Final = 3
CHILD: Final = Path(__file__).parent / "webhook_child.py"


class Receiver:
    """A webhook receiver that is killed and started again on the same port."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, CHILD, str(self.port), self._file])

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def events(self) -> list[dict[str, Any]]:
        """Return what it answered 204 to, or was killed just before it did."""
        if not self._file.exists():
            return []
        found: list[dict[str, Any]] = []
        for line in self._file.read_bytes().splitlines():
            try:
                found += json.loads(line)
            except json.JSONDecodeError:
                # It was killed while it wrote, so it never answered; the batch came again.
                continue
        return found


def written(instance: Instance, name: str) -> list[dict[str, Any]]:
    """Return what is in the files of an endpoint, in their order."""
    directory = instance.data_dir / "files" / instance.place.hubs[0] / name
    files = sorted(directory.glob("*.jsonl"), key=lambda file: (file.name[0] == "c", file.name))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def test_kill_9_of_the_service_and_of_a_receiver(
    new_instance: NewInstance, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    instance = new_instance()
    hub = ("--hub", instance.place.hubs[0])
    receiver = Receiver(tmp_path / "received")
    receiver.start()
    url = f"http://127.0.0.1:{receiver.port}/"
    instance.cli("endpoint", "create-webhook", "hook", url, "--max-batch", "50", *hub)
    instance.cli("endpoint", "create-file", "files", "--max-file-size", "64KiB", *hub)
    instance.cli(
        *("route", "create", "all", "--endpoint", "hook", "--endpoint", "files"),
        *("--condition", "$body.n >= 0 AND $twin.tags.none != 1 OR true", *hub),
    )
    names = [unique(f"routed-{number}") for number in range(4)]
    senders = [Sender(name, instance.hub().create_device(name)[0]) for name in names]
    load = Load(instance, ("", ""), [], senders)
    try:
        for life in range(KILLS):
            living = asyncio.ensure_future(load.live(life, moments.uniform(0.8, 1.6), registrars=0))
            await asyncio.sleep(moments.uniform(0.1, 0.7))
            await asyncio.to_thread(receiver.kill)
            await asyncio.sleep(moments.uniform(0.0, 0.4))
            receiver.start()
            await living
            await asyncio.to_thread(instance.start)
        acknowledged = sum(sum(sender.acknowledged) for sender in senders)
        for events in (lambda: written(instance, "files"), receiver.events):
            await asyncio.to_thread(wait_for, lambda of=events: complete(of(), senders))
            check(events(), senders)
    finally:
        receiver.kill()
    print(f"{acknowledged} messages, {len(receiver.events())} received")
    assert acknowledged > 100
    assert "Traceback" not in instance.log_text()


def bodies_of(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return what came from each device, once and in the order of the log."""
    once: dict[tuple[int, int], dict[str, Any]] = {}
    for event in events:
        place = (event["partition"], event["sequenceNumber"])
        assert once.setdefault(place, event) == event, "two messages in one place"
    found: dict[str, list[dict[str, Any]]] = {}
    for _, event in sorted(once.items()):
        found.setdefault(event["deviceId"], []).append(event["body"])
    return found


def complete(events: list[dict[str, Any]], senders: list[Sender]) -> bool:
    found = bodies_of(events)
    return all(
        sum(each["life"] == life for each in found.get(sender.device_id, ())) >= count
        for sender in senders
        for life, count in enumerate(sender.acknowledged)
    )


def check(events: list[dict[str, Any]], senders: list[Sender]) -> None:
    found = bodies_of(events)
    for sender in senders:
        for life in range(KILLS):
            bodies = [each for each in found[sender.device_id] if each["life"] == life]
            expected = [body_of(sender.device_id, life, number) for number in range(len(bodies))]
            assert bodies == expected, f"{sender.device_id} in life {life}"
            assert sender.acknowledged[life] <= len(bodies) <= sender.sent[life]
