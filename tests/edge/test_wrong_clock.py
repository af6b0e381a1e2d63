"""A device whose wall clock is years wrong: from the start, all at once, and at a reboot.

The runtime is given another clock by libfaketime. Modules and their supervisors are not, for the
SDK does not run with it: a device ten years ahead refuses their tokens until it is right again.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon
from support.edge_ledger import DeviceLedger

if TYPE_CHECKING:
    from support.instance import Instance

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is missing (Debian package faketime)"),
]


class Clock:
    """A clock that a test sets.

    Args:
        file: where it is told how wrong it is.

    Attributes:
        env: variables of whoever is to have it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, days: int) -> None:
        """Be so many days ahead."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{days:+}d\n")
        new.rename(self._file)


@pytest.mark.parametrize(
    ("days", "refusal"),
    [(3650, "certificate has expired"), (-3650, "certificate is not yet valid")],
)
def test_a_clock_that_is_years_wrong(shared_instance: Instance, days: int, refusal: str) -> None:
    instance = shared_instance
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    device_id = unique("clock")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    with EdgeDaemon(instance) as daemon:
        clock = Clock(daemon.directory / "clock")
        clock.set(days)
        daemon.environment.update(clock.env)
        daemon.configure(device_id, key)
        daemon.start()

        def wait_log(what: str, begun: int = 0) -> None:
            daemon.wait(lambda: what in daemon.log_text()[begun:], what)

        # It trusts nobody whose certificate is not valid by its clock, and says what that says.
        wait_log(f"{refusal} (this device's clock says 20{36 if days > 0 else 16}-")
        clock.set(0)
        # It does not wait for the end of a pause.
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        ledger = DeviceLedger(daemon.directory / "ledger")
        ledger.deploy(instance, device_id)
        ledger.wait_accepted(20)
        # All at once, with messages on their way.
        begun = len(daemon.log_text())
        clock.set(days)
        wait_log("the clock was set", begun)
        wait_log(refusal, begun)
        assert daemon.status("sender") == daemon.status("receiver") == "running"
        clock.set(0)
        ledger.wait_accepted(20)
        # And when it starts: it has an identity and a deployment, and asks nobody for them.
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        clock.set(days)
        begun = len(daemon.log_text())
        daemon.start()
        daemon.wait(lambda: daemon.status("sender") == "running", "the module")
        wait_log('"protocol": "mqtt"', begun)
        wait_log(refusal, begun)
        clock.set(0)
        # Nothing of what waited was taken for ten years old.
        ledger.wait_accepted(20)
        ledger.stop()
        losses = 2 + daemon.log_text().count("no connection to the hub")
        print(ledger.settle(instance, device_id, losses))
        assert daemon.end(signal.SIGTERM) == 0
        assert "Traceback" not in daemon.log_text()
