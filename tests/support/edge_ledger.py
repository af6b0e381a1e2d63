"""The ledger of a device: every message that was sent, from a module to the hub's events.

Two modules run in a device's site: `tests/edge/sender.py`, which notes what was accepted of it, and
`tests/edge/receiver.py`, which notes what it got. This compares their notes with each other and
with what the hub's event stream has.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.edge_daemon import deploy, process
from support.events import wait_for

if TYPE_CHECKING:
    from support.instance import Instance

MODULES = Path(__file__).parents[1] / "edge"
URGENT = 5
PATIENCE_S = 90.0
ROUTES = {
    "up": {"route": "FROM /messages/modules/sender/outputs/up INTO $upstream", "priority": 3},
    "urgent": {
        "route": "FROM /messages/modules/sender/outputs/urgent INTO $upstream",
        "priority": 0,
    },
    "across": "FROM /messages/modules/sender/outputs/* "
    'INTO BrokeredEndpoint("/modules/receiver/inputs/in")',
}


class DeviceLedger:
    """What the modules of one device, or one leaf device, have noted.

    Args:
        directory: to note it in.

    Attributes:
        directory: likewise.
        seen: numbers in the hub's events, as they came, once it was settled.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.seen: list[int] = []

    def deploy(self, instance: Instance, device_id: str, **hub: Any) -> None:
        """Deploy the two modules and their routes."""
        deploy(instance, device_id, self.modules(), **{"routes": ROUTES, **hub})

    def modules(self) -> dict[str, Any]:
        """Return the two modules of a deployment."""
        return {
            name: process(sys.executable, str(MODULES / f"{name}.py"), env=self.env)
            for name in ("sender", "receiver")
        }

    @property
    def env(self) -> dict[str, Any]:
        """Environment of such a module."""
        return {"LEDGER": {"value": str(self.directory)}}

    def numbers(self, name: str) -> list[int]:
        """Return what stands in one of the files so far."""
        file = self.directory / name
        text = file.read_text() if file.exists() else ""
        # The last line may be in the middle of being written.
        return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wish(self) -> str:
        """Return the last desired property that the receiver knows of."""
        file = self.directory / "desired"
        return file.read_text().split()[-1] if file.exists() else ""

    def wait_accepted(self, more: int) -> None:
        """Wait until so many more messages were accepted."""
        goal = len(self.numbers("accepted")) + more
        wait_for(lambda: len(self.numbers("accepted")) >= goal, PATIENCE_S)

    def wait_received(self) -> None:
        """Wait until the receiver has got another message."""
        count = len(self.numbers("received"))
        wait_for(lambda: len(self.numbers("received")) > count, PATIENCE_S)

    def stop(self) -> None:
        """Have the sender send no more."""
        (self.directory / "stop").touch()
        wait_for((self.directory / "stopped").exists, PATIENCE_S)

    # The reckoning.

    def settle(self, instance: Instance, device_id: str, losses: int = 0) -> dict[str, int]:
        """Compare all notes, once the sender has stopped, and return what was counted.

        Args:
            instance: where the device's hub is.
            device_id: of the device.
            losses: how often something was cut or killed. Each may bring messages again, from
                some point on, as at-least-once says; without one none may come twice.
        """
        counted = self.settle_upward(instance, device_id, losses)
        accepted, again = self.numbers("accepted"), self.numbers("again")
        wait_for(lambda: accepted[-1] in self.numbers("received"), PATIENCE_S)
        received = self.numbers("received")
        gone = set(accepted) - set(received)
        assert not (unseen := sorted(gone - self._taken_along(received))), f"lost: {unseen[:20]}"
        return {
            **counted,
            "received": len(set(received)),
            "twice at the receiver": in_order(received, losses + len(again)),
            "died with the receiver": len(gone),
        }

    def settle_upward(self, instance: Instance, device_id: str, losses: int = 0) -> dict[str, int]:
        """Do so for the way to the hub alone; see `settle`."""
        accepted, tried = self.numbers("accepted"), set(self.numbers("tried"))
        again = self.numbers("again")
        assert accepted == sorted(set(accepted)), "the sender's own notes"
        seen = self.seen = _events(instance, device_id, set(accepted))
        assert set(seen) <= tried, "messages that nobody has sent"
        assert not (lost := sorted(set(accepted) - set(seen))), f"lost: {lost[:20]}"
        duplicates = 0
        for urgent in (False, True):
            route = [number for number in seen if (number % URGENT == 0) is urgent]
            duplicates += in_order(route, losses + len(again))
        return {
            "accepted": len(accepted),
            "twice in the hub": duplicates,
            "sent again by the sender": len(again),
        }

    def check_urgency(self, first: int, last: int) -> None:
        """Check that of messages that waited together the urgent ones were sent first.

        Args:
            first: number of the first one that was accepted while the hub was away.
            last: of the last one.
        """
        waited = [number for number in dict.fromkeys(self.seen) if first <= number <= last]
        urgent = [number % URGENT == 0 for number in waited]
        assert True in urgent
        assert urgent == sorted(urgent, reverse=True), f"not the urgent ones first: {waited}"

    def _taken_along(self, received: list[int]) -> set[int]:
        """Return what a receiver may have acknowledged, and not noted, when it was killed.

        The SDK acknowledges a message before it gives it to the module. So such numbers are right
        between the last one that a receiver noted and the first one that its successor did.
        """
        found: set[int] = set()
        for count in self.numbers("begun"):
            if 0 < count < len(received):
                found.update(range(received[count - 1] + 1, received[count]))
        return found


def in_order(seen: list[int], losses: int) -> int:
    """Check that numbers came in order, but for repetitions; return how many came again.

    A sequence goes back only when it is repeated from some point on: not more often than something
    was lost, and never to a number that had been left out.
    """
    first = list(dict.fromkeys(seen))
    assert first == sorted(first), "out of order"
    back = sum(after <= before for before, after in pairwise(seen))
    assert back <= losses, f"messages came again {back} times, with {losses} losses"
    return len(seen) - len(first)


def _events(instance: Instance, device_id: str, until: set[int]) -> list[int]:
    """Return the numbers in the hub's events, until all of some have been seen."""
    seen: list[int] = []
    left = set(until)
    follow = instance.follow(
        *("events", "tail", "--hub", instance.place.hubs[0]),
        *("--device-id", device_id, "--from", "earliest"),
        patience_s=PATIENCE_S,
    )
    try:
        for event in follow:
            seen.append(int(event["body"]))
            left.discard(seen[-1])
            if not left:
                break
    finally:
        follow.close()
    return seen
