"""One test run: its directory, its share of the loopback addresses, the secrets it used.

Several runs on one machine stay out of each other's way: each holds a numbered slot, and the slot
decides the addresses and host names of its instances. The first slot's first instance has the
documented names (design.md section 2).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = "MUSTER_TEST_RUN"
HOSTS_FILE = Path("/etc/hosts")
OFFICIAL_PORTS = (443, 8883, 5671)


@dataclass(frozen=True)
class Place:
    """Where one instance listens and the names it is reached by."""

    address: str
    dps: str
    hubs: tuple[str, str]
    https_port: int
    mqtt_port: int
    amqp_port: int
    why_not_named: str | None
    """Why the names do not lead here, so that commands cannot use them; None when they do."""
    why_not_official: str | None
    """Why unmodified device SDKs cannot reach this place; None when they can."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.dps, *self.hubs)


class Run:
    """The run this process belongs to, as begun by the process that started pytest."""

    def __init__(self, directory: Path, slot: int) -> None:
        self.directory = directory
        self.slot = slot
        self._lock: Any = None

    @classmethod
    def begin(cls) -> Self:
        locks = Path(tempfile.gettempdir()) / f"muster-tests-{os.getuid()}"
        locks.mkdir(mode=0o700, exist_ok=True)
        for slot in range(100):
            lock = (locks / f"slot-{slot}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            run = cls(Path(tempfile.mkdtemp(prefix=f"muster-run-{slot}-")), slot)
            run._lock = lock
            os.environ[ENVIRONMENT] = f"{slot}:{run.directory}"
            run._remove_names()
            return run
        raise RuntimeError("a hundred test runs at once: something is not ending its runs")

    @classmethod
    def current(cls) -> Self:
        slot, _, directory = os.environ[ENVIRONMENT].partition(":")
        return cls(Path(directory), int(slot))

    def end(self, *, keep: bool) -> None:
        self._remove_names()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def next_number(self) -> int:
        """Count the private instances of this run over all its processes."""
        with self.locked("number"):
            counter = self.directory / "number"
            number = int(counter.read_text()) + 1 if counter.exists() else 1
            counter.write_text(str(number))
        return number

    def place(self, number: int) -> Place:
        """Choose where instance `number` lives; 0 is the one that all tests share."""
        first = self.slot == number == 0
        suffix = "" if first else f"-{self.slot}-{number}"
        names = tuple(f"{name}{suffix}.muster.localhost" for name in ("dps", "plant-a", "plant-b"))
        address = f"127.{100 + self.slot}.{number // 250}.{number % 250 + 1}"
        known = {_resolve(name) for name in names}
        if known == {None} and os.access(HOSTS_FILE, os.W_OK):
            self._add_names(address, names)
            known = {_resolve(name) for name in names}
        if len(known) == 1 and (found := next(iter(known))) and found.startswith("127."):
            address = found
        unnamed = _why_not_named(address, names)
        why_not = unnamed or _why_not_official(address)
        ports = OFFICIAL_PORTS
        if why_not is not None:
            ports = (free_port(address), free_port(address), free_port(address))
        return Place(address, names[0], (names[1], names[2]), *ports, unnamed, why_not)

    @property
    def _mark(self) -> str:
        return f"# muster tests, slot {self.slot}"

    def _add_names(self, address: str, names: tuple[str, ...]) -> None:
        with HOSTS_FILE.open("r+") as hosts:
            fcntl.flock(hosts, fcntl.LOCK_EX)
            text = hosts.read()
            if text and not text.endswith("\n"):
                hosts.write("\n")
            hosts.write(f"{address} {' '.join(names)} {self._mark}\n")

    def _remove_names(self) -> None:
        if not os.access(HOSTS_FILE, os.W_OK) or self._mark not in HOSTS_FILE.read_text():
            return
        with HOSTS_FILE.open("r+") as hosts:
            fcntl.flock(hosts, fcntl.LOCK_EX)
            lines = [line for line in hosts if not line.rstrip().endswith(self._mark)]
            # In place: container engines bind-mount this file, so it cannot be replaced.
            hosts.seek(0)
            hosts.write("".join(lines))
            hosts.truncate()


def _resolve(name: str) -> str | None:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def _why_not_named(address: str, names: tuple[str, ...]) -> str | None:
    if unknown := [name for name in names if _resolve(name) != address]:
        return f"{', '.join(unknown)} must resolve to {address}: add them to {HOSTS_FILE}"
    return None


def _why_not_official(address: str) -> str | None:
    for port in OFFICIAL_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                return (
                    f"the SDKs dial port {port} and nothing else, and {address}:{port} cannot be "
                    f"bound here ({error.strerror}); run as root or lower "
                    "net.ipv4.ip_unprivileged_port_start, with nothing else on that port"
                )
    return None


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
