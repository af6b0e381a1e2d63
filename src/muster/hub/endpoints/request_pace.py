"""How fast one client's requests about its twin and its subscriptions are served."""

from __future__ import annotations

from typing import Final

from muster.model.pacing import Pace

REQUEST_PACE: Final = Pace(rate=10.0, burst=100)
"""Requests of one connection. A client whose failed twin read makes it ask again asks 2000 times
a second (hub-device.md 0.11); it gets its answers in order, later."""
MAX_WAITING: Final = 64
"""Requests of one connection that may stand in line; then it is not read from any more."""
