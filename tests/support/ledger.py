"""Counting messages from end to end: none lost, in order, how many twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.instance import Instance


class Ledger:
    """Every message a sender was told is accepted."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.number = 0

    def next(self) -> int:
        """Return the number of a new message."""
        self.number += 1
        return self.number

    def check(self, seen: list[int]) -> int:
        """Compare with what arrived; return how many came more than once."""
        first = list(dict.fromkeys(seen))
        missing = set(self.accepted) - set(first)
        assert not missing, f"lost: {sorted(missing)[:20]}"
        assert first == sorted(first), "out of order"
        return len(seen) - len(first)


def numbers(instance: Instance, device_id: str, last: int) -> list[int]:
    """Read telemetry until the message with the last number is there."""
    seen: list[int] = []
    follow = instance.follow(
        *("events", "tail", "--hub", instance.place.hubs[0]),
        *("--device-id", device_id, "--from", "earliest"),
    )
    try:
        for event in follow:
            seen.append(int(event["body"]))
            if seen[-1] == last:
                break
    finally:
        follow.close()
    return seen
