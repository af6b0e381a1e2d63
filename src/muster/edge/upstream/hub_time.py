"""What time it is at the hub, as far as this device can tell (users.md, pain 23).

A device without a clock of its own begins somewhere in the past until a time server answers. Tokens
that it signs meanwhile are expired, so they are signed again when the clock is set; and where a
refusal comes with the time of the hub, that one counts until then.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

from muster.auth.sas_token import CLOCK_SKEW_S
from muster.clock import format_time

if TYPE_CHECKING:
    from muster.clock import Clock

STEP_S: Final = 60.0
"""A wall clock that runs away from the steady one by more than this was set."""


@final
class HubTime:
    """Shared by everybody who signs tokens for the hub.

    Args:
        clock: of this device.
    """

    __slots__ = ("_clock", "_correction_s", "_learnt_at")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._correction_s = 0.0
        self._learnt_at = self._offset()

    def now(self) -> float:
        """Return unix seconds."""
        if self._correction_s and abs(self._offset() - self._learnt_at) > STEP_S:
            self._correction_s = 0.0  # somebody has set the clock, so it is believed again
        return self._clock.time() + self._correction_s

    def learn(self, unix_s: float) -> bool:
        """Note the time that the hub says while it refuses a token.

        Args:
            unix_s: from an answer over a connection to a trusted server.

        Returns:
            Whether that differs so much that another token may be accepted.
        """
        if abs(unix_s - self.now()) <= CLOCK_SKEW_S / 2:
            return False
        self._correction_s = unix_s - self._clock.time()
        self._learnt_at = self._offset()
        return True

    @property
    def correction_s(self) -> float:
        """Seconds by which this device's clock is thought to be late; 0 where it is believed."""
        return self._correction_s

    def remark(self) -> str:
        """Say what this device thinks, for messages about certificates that are not accepted."""
        return (
            f"this device's clock says {format_time(datetime.fromtimestamp(int(self.now()), UTC))}"
        )

    def mark(self) -> float:
        """Return something that `stepped` takes."""
        return self.now() - self._clock.monotonic()

    def stepped(self, mark: float) -> bool:
        """Return whether it became another time since a mark: tokens made before are off."""
        return abs(self.mark() - mark) > STEP_S

    def _offset(self) -> float:
        return self._clock.time() - self._clock.monotonic()
