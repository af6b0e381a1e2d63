"""The clock, compared with whoever tells the time.

It comes before all connections, because a certificate that is not accepted and a token that is
refused may both be the clock's fault. So the service is asked without looking at its certificate:
what it says is used for nothing but what people are told, and to sign as the daemon would.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from muster.edge.check import probe
from muster.edge.check.causes import Cause
from muster.edge.check.connection_checks import HTTPS, gateway
from muster.edge.check.outcome import Outcome, Problem, Result, skipped, warning
from muster.edge.settings import DpsProvisioning

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_MOST_SKEW_S: Final = 10.0
_NTP_EPOCH: Final = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 5905)."""
_NTP_PORT: Final = 123
_NTP_SIZE: Final = 48


def local_time(around: Surroundings) -> Outcome:
    """Compare the clock with an NTP server's, else with what the service says."""
    server = around.options.ntp_server
    told = _service_time(around) if server is None else _ntp(around, server)
    if told is None:
        raise skipped(
            Cause.TIME_UNKNOWN,
            "no service has told the time",
            "see the checks of connections, or name a time server with --ntp-server",
        )
    skew = around.skew_s = around.clock.time() - told
    if abs(skew) >= _MOST_SKEW_S:
        wrong = abs(skew) > probe.FORGIVEN_S
        raise Problem(
            Cause.CLOCK_WRONG if wrong else Cause.CLOCK_OFF,
            f"the clock of this device is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            "let it be set by a time server (timedatectl set-ntp true; chrony or systemd-timesyncd "
            "with a server that can be reached)",
            Result.ERROR if wrong else Result.WARNING,
        )
    return Outcome(result=Result.OK, facts={"skew_s": round(skew, 1)})


def _service_time(around: Surroundings) -> float | None:
    """Return what the provisioning service says, or the hub where there is none."""
    given = around.settings.provisioning
    try:
        if isinstance(given, DpsProvisioning):
            parts = urlsplit(given.endpoint)
            return probe.time_of(around, parts.hostname or "", parts.port or HTTPS)
        return probe.time_of(around, *gateway(around))
    except Problem:
        return None  # said by the check of that connection


def _ntp(around: Surroundings, server: str) -> float:
    """Ask a time server (SNTP, RFC 4330) and return unix seconds."""
    host, port = probe.split(server, _NTP_PORT)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as channel:
            channel.settimeout(around.options.patience_s)
            channel.sendto(b"\x23" + bytes(_NTP_SIZE - 1), address)
            answer = channel.recv(512)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise warning(
            Cause.TIME_SERVER_SILENT,
            f"the time server {host}:{port} does not answer: {reason}",
            "name another one with --ntp-server, or let UDP port 123 out",
        ) from None
    if len(answer) < _NTP_SIZE:
        raise warning(
            Cause.TIME_SERVER_FOREIGN,
            f"{host}:{port} is no time server",
            "name another one with --ntp-server",
        )
    seconds = int.from_bytes(answer[40:44]) - _NTP_EPOCH
    return seconds + int.from_bytes(answer[44:48]) / 2**32
