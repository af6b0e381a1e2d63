"""The numbers of a session with the hub."""

from __future__ import annotations

import msgspec

from muster.edge.upstream import backoff


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What a session allows itself and the hub. Times in seconds, sizes in bytes.

    Attributes:
        in_flight: messages that are sent and not acknowledged.
        in_flight_size: of those, together; one message may go beyond it.
        keep_alive_s: longest silence that the hub is promised.
        dial_s: for TCP and TLS.
        answer_s: for the hub to accept and for each of its answers.
        progress_s: in which the hub acknowledges something, while there is something.
        token_s: life of a token.
        renew_s: before its end a token is replaced.
        drain_s: for what is in flight when a connection is left on purpose.
        stable_s: after which a connection counts as a good one.
        unreachable: pauses after failures.
        refused: pauses after refusals.
    """

    in_flight: int = 1_000
    in_flight_size: int = 1024 * 1024
    keep_alive_s: int = 60
    dial_s: float = 20.0
    answer_s: float = 60.0
    progress_s: float = 60.0
    token_s: float = 3_600.0
    renew_s: float = 300.0
    drain_s: float = 10.0
    stable_s: float = 60.0
    unreachable: backoff.Backoff = backoff.UNREACHABLE
    refused: backoff.Backoff = backoff.REFUSED
