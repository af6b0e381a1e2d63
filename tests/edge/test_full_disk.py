"""A disk that is full or broken under a real runtime: what was accepted is not lost, and it lives.

Each device has a small disk of its own: a file with a file system, mounted where its state is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon
from support.edge_ledger import DeviceLedger
from support.events import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.instance import Instance

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="to mount a small disk needs root"),
    pytest.mark.skipif(
        shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 is missing (e2fsprogs)"
    ),
]

SIZE = 32 << 20
PATIENCE_S = 90.0
CANNOT_WRITE = '"event": "the database cannot be written"'
CAN_WRITE = '"event": "the database can be written again"'


class Disk:
    """A small disk. Use it as a context manager.

    Args:
        place: where it is mounted.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._image = place.with_name("disk.img")
        self._filler = place / "filler"

    def __enter__(self) -> Self:
        self._place.mkdir(exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(SIZE)
        _run("mkfs.ext4", "-q", "-m", "0", self._image)
        self._mount()
        (self._place / "lost+found").rmdir()
        self._place.chmod(0o711)
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "-l", self._place)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte of room; what is given back meanwhile is taken by `top_up`."""
        self.top_up()
        yield
        self._filler.unlink()

    def top_up(self) -> None:
        """Leave no byte of room."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def fail(self) -> None:
        """Have every write fail from now on, as a disk does that the kernel has given up."""
        _run("mount", "-o", "remount,abort", self._place)

    def repair(self) -> None:
        """Have it checked, and work again; nobody may use it."""
        _run("umount", "-l", self._place)
        # A copy: somebody's namespace may hold the old one, which the kernel has given up for good.
        broken, self._image = self._image, self._image.with_name("repaired.img")
        shutil.copyfile(broken, self._image)
        subprocess.run(["e2fsck", "-fyq", self._image], check=False, capture_output=True)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self._place)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class SmallDevice:
    """A device whose state is on a small disk, with the two modules of the ledger."""

    def __init__(self, instance: Instance, daemon: EdgeDaemon, disk: Disk) -> None:
        if instance.place.why_not_official is not None:
            pytest.skip(instance.place.why_not_official)
        self.instance = instance
        self.daemon = daemon
        self.disk = disk
        self.device_id = unique("small")
        self.key, _ = instance.dps.enroll(
            self.device_id,
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        self.ledger = DeviceLedger(daemon.directory / "ledger")
        daemon.configure(self.device_id, self.key)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        self.ledger.deploy(instance, self.device_id)
        daemon.wait(lambda: daemon.status("sender") == "running", "the module")
        self.ledger.wait_accepted(20)

    def wait_log(self, what: str, begun: int = 0) -> None:
        self.daemon.wait(lambda: what in self.daemon.log_text()[begun:], what)

    def wait_refused(self, times: int) -> None:
        """Wait until the sender was sent away so often, since nothing could be accepted."""
        begun = len(self.daemon.log_text())
        self.daemon.wait(
            lambda: self.daemon.log_text()[begun:].count("The store does not answer") >= times,
            "refusals",
        )

    def settle(self, losses: int = 0) -> None:
        """See that nothing is missing, and end the device."""
        self.ledger.stop()
        losses += self.daemon.log_text().count("no connection to the hub")
        print(self.ledger.settle(self.instance, self.device_id, losses))
        assert self.daemon.status("sender") == self.daemon.status("receiver") == "running"
        assert self.daemon.end(signal.SIGTERM) == 0
        assert "Traceback" not in self.daemon.log_text()


@contextlib.contextmanager
def small_device(instance: Instance) -> Iterator[SmallDevice]:
    with EdgeDaemon(instance) as daemon, Disk(daemon.home) as disk:
        try:
            yield SmallDevice(instance, daemon, disk)
        finally:
            daemon.end()


def test_full_while_modules_send(shared_instance: Instance) -> None:
    with small_device(shared_instance) as device:
        with device.disk.full():
            device.wait_log(CANNOT_WRITE)
            device.disk.top_up()
            device.wait_refused(3)
            # What runs goes on, and is not told that it was accepted; the log says it once.
            assert device.daemon.status("sender") == device.daemon.status("receiver") == "running"
            assert device.daemon.log_text().count("database cannot be written") == 1
            assert "not tended" not in device.daemon.log_text()
        device.wait_log(CAN_WRITE)
        device.ledger.wait_accepted(20)
        device.settle(losses=1)


def test_full_when_it_starts(shared_instance: Instance) -> None:
    with small_device(shared_instance) as device:
        daemon = device.daemon
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        begun = len(daemon.log_text())
        with device.disk.full():
            daemon.start()
            # Modules reach the edge hub, to read twins for example.
            device.wait_log('"protocol": "mqtt"', begun)
            device.wait_log('"event": "client connected"', begun)
            device.disk.top_up()
            device.wait_refused(3)
            assert daemon.status("sender") == daemon.status("receiver") == "running"
        device.ledger.wait_accepted(20)
        device.settle(losses=1)


def test_full_while_it_sends_what_waited(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance()
    with small_device(instance) as device:
        instance.kill9()
        device.ledger.wait_accepted(100)
        with device.disk.full():
            device.wait_log(CANNOT_WRITE)
            device.disk.top_up()
            instance.start()
            waited = device.ledger.numbers("accepted")[-1]
            # It is all sent, though nothing of it can be noted as sent.
            wait_for(lambda: waited in device.ledger.numbers("received"), PATIENCE_S)
            device.wait_log("connected to", len(device.daemon.log_text()) // 2)
        device.wait_log(CAN_WRITE)
        device.ledger.wait_accepted(20)
        device.settle(losses=2)


def test_a_disk_that_fails_and_is_repaired(shared_instance: Instance) -> None:
    with small_device(shared_instance) as device:
        daemon = device.daemon
        device.disk.fail()
        device.wait_log(CANNOT_WRITE)
        device.wait_refused(3)
        assert daemon.status("sender") == daemon.status("receiver") == "running"
        assert daemon.log_text().count("database cannot be written") == 1
        # It comes up on a disk that can only be read, says what is the matter, and goes on trying.
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        begun = len(daemon.log_text())
        daemon.start()
        device.wait_log("Read-only file system", begun)
        assert daemon.status("sender") == daemon.status("receiver") == "running"
        assert daemon.end(signal.SIGTERM) == 0
        device.disk.repair()
        daemon.start()
        device.ledger.wait_accepted(20)
        device.settle(losses=2)


def test_a_full_disk_leaves_the_configuration_as_it_was(shared_instance: Instance) -> None:
    with EdgeDaemon(shared_instance) as daemon, Disk(daemon.home) as disk:
        key, _ = shared_instance.dps.enroll(unique("small"))
        daemon.config = daemon.home / "config.toml"
        daemon.configure("before", key)
        before = daemon.config.read_bytes()
        with disk.full(), pytest.raises(subprocess.CalledProcessError) as failed:
            daemon.configure("after", key)
        assert "No space left on device" in failed.value.stderr
        assert daemon.config.read_bytes() == before
        assert {path.name for path in daemon.home.iterdir()} == {"config.toml", "config.trust.pem"}
