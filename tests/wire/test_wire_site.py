"""The link that tests cut: it carries, delays, loses and is cut; or tests of it prove nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.site import Site, why_none

if TYPE_CHECKING:
    from support.instance import Instance

_DIAL = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])):
    print(time.monotonic() - began)
"""

pytestmark = pytest.mark.skipif(why_none() is not None, reason=str(why_none()))


def test_a_link(instance: Instance) -> None:
    place = instance.place
    with Site(place) as site:

        def dial(patience_s: float) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                site.command(
                    sys.executable, "-c", _DIAL, place.dps, str(place.mqtt_port), str(patience_s)
                ),
                capture_output=True,
                text=True,
                check=False,
            )

        assert dial(30).returncode == 0
        site.shape(delay_s=0.2)
        slow = dial(30)
        assert float(slow.stdout) >= 0.4  # a packet each way
        site.shape(loss=0.5)
        while not site.lost:
            assert dial(60).returncode == 0, "the kernel sends again what was lost"
        site.shape()
        site.cut()
        cut = dial(1)
        assert cut.returncode != 0
        assert "TimeoutError" in cut.stderr
        site.restore()
        assert dial(30).returncode == 0
    assert (
        site.name
        not in subprocess.run(
            ["ip", "netns", "list"], capture_output=True, text=True, check=True
        ).stdout.split()
    )
