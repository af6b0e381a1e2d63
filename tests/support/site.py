"""A site: a network namespace whose only way out is a link that can be cut, slow or lossy.

The link is a pair of TUN devices, one here and one in the namespace, with this process carrying
the packets between them: so it can hold them back and lose them whatever the kernel was built
with (`tc netem` is missing in many). The TCP at both ends is the kernel's own, and what happens to
a connection over it is what happens to one over a bad line.

Inside, the names of an instance lead to this end of the link, and from there by address
translation to where the instance listens. A site can be behind another one instead: then its link
ends there, and only that site's own name leads out of it. Needs root, `/dev/net/tun`, iproute2 and
iptables.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import shutil
import signal
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from support.run import Run
from support.secrets import CLOCK

if TYPE_CHECKING:
    from types import TracebackType

    from support.run import Place

_TUN: Path = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_MTU = 1500
_TOOLS = ("ip", "iptables", "sysctl")
_TCP = 6
_SYN, _SYN_ACK = 0x02, 0x12


class Attempt(NamedTuple):
    """A connection that somebody in a site has tried to open, as it came out of the link.

    Attributes:
        at_s: when, by the steady clock.
        opening: ports and sequence number as they were sent: the same when it was sent again.
    """

    at_s: float
    opening: bytes


def why_none() -> str | None:
    """Return why no site can be made here; `None` when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not _TUN.exists():
        return f"{_TUN} is missing"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"missing: {', '.join(missing)} (Debian packages iproute2, iptables, procps)"
    return None


class Site:
    """A place behind a link. Use it as a context manager.

    Args:
        place: the instance that its devices are to reach; not from behind another site.
        hostname: what the edge device in it is called there.
        above: the site it is behind; `None` for none.

    Attributes:
        name: of the network namespace.
        lost: packets that the link has lost, both ways.
        attempts: connections that the instance was asked for, each once, the oldest first.
    """

    def __init__(self, place: Place, hostname: str = "", above: Site | None = None) -> None:
        run = Run.current()
        number = run.next_number()
        # Names of devices are short, and both numbers small.
        self.name = f"muster{run.slot}-{number}"
        self._place = place
        self.hostname = hostname
        self._above = above
        self._here = f"10.{200 + run.slot % 50}.{number % 250}.1"
        self._there = self._here[:-1] + "2"
        self._devices = f"ms{run.slot}n{number}", f"mt{run.slot}n{number}"
        self._etc = Path("/etc/netns") / self.name
        self._link = threading.Lock()
        self._cut = False
        self._delay_s = 0.0
        self._loss = 0.0
        self._left: int | None = None
        self._end, self._ended = os.pipe()
        self._carrier: threading.Thread | None = None
        self.lost = 0
        self.attempts: list[Attempt] = []

    @property
    def hosts(self) -> Path:
        """The names that are known inside, as `/etc/hosts`."""
        return self._etc / "hosts"

    # What a test does to the link.

    def cut(self) -> None:
        """Lose every packet from now on; connections stay as they are."""
        with self._link:
            self._cut = True

    def restore(self, packets: int | None = None) -> None:
        """Carry packets again; with a number, the link is cut after so many."""
        with self._link:
            self._cut, self._left = packets == 0, packets

    @property
    def gateway(self) -> str:
        """Address of the other end of the link."""
        return self._here

    @property
    def is_cut(self) -> bool:
        """Whether packets are lost, all of them."""
        return self._cut

    def shape(self, delay_s: float = 0.0, loss: float = 0.0) -> None:
        """Hold every packet back, each way, and lose a part of them, 0 to 1."""
        with self._link:
            self._delay_s, self._loss = delay_s, loss

    # What a test runs in it.

    def command(self, *args: str | Path) -> list[str]:
        """Return the command that runs `args` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, args)]

    def power_cut(self) -> None:
        """Kill every process inside, with no time for anything."""
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    # Making and removing.

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _make(self) -> None:
        here, there = self._devices
        above = self._above
        self._etc.mkdir(parents=True)
        names = " ".join(self._place.names) if above is None else above.hostname
        own_names = f"localhost {self.hostname}".strip()
        self.hosts.write_text(f"127.0.0.1 {own_names}\n{self._here} {names}\n")
        _run("ip", "netns", "add", self.name)
        ends = _tun(here), _tun(there)
        _run("ip", "link", "set", there, "netns", self.name)
        if above is not None:
            _run("ip", "link", "set", here, "netns", above.name)
        for space, device, own, other in (
            (None if above is None else above.name, here, self._here, self._there),
            (self.name, there, self._there, self._here),
        ):
            ip = ["ip", *(["-n", space] if space else [])]
            _run(*ip, "addr", "add", own, "peer", other, "dev", device)
            _run(*ip, "link", "set", device, "up", "mtu", str(_MTU))
        _run("ip", "-n", self.name, "link", "set", "lo", "up")
        _run("ip", "-n", self.name, "route", "add", "default", "via", self._here)
        if above is None:
            # The instance listens on a loopback address, which packets from outside reach only so.
            _run("sysctl", "-qw", f"net.ipv4.conf.{here}.route_localnet=1")
            _run("iptables", "-w", "-t", "nat", "-A", *self._rule)
        else:
            # Whoever is behind a device reaches nobody else.
            _run(*above.command("sysctl", "-qw", "net.ipv4.ip_forward=0"))
        self._carrier = threading.Thread(target=self._carry, args=ends, daemon=True)
        self._carrier.start()

    @property
    def _rule(self) -> tuple[str, ...]:
        return (
            *("PREROUTING", "-i", self._devices[0], "-d", self._here, "-p", "tcp"),
            *("-j", "DNAT", "--to-destination", self._place.address),
        )

    def _remove(self) -> None:
        os.close(self._ended)
        if self._carrier is not None:
            self._carrier.join()
        os.close(self._end)
        if self._above is None:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("iptables", "-w", "-t", "nat", "-D", *self._rule)
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", self.name)
        shutil.rmtree(self._etc, ignore_errors=True)

    # The link itself.

    def _carry(self, here: int, there: int) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        other = {here: there, there: here}
        count = 0
        with selectors.DefaultSelector() as ready:
            for end in (here, there, self._end):
                ready.register(end, selectors.EVENT_READ)
            while True:
                now = CLOCK.monotonic()
                pause = max(0.0, waiting[0][0] - now) if waiting else None
                for key, _ in ready.select(pause):
                    if key.fd == self._end:
                        os.close(here)
                        os.close(there)
                        return
                    packet = os.read(key.fd, 2 * _MTU)
                    with self._link:
                        gone = self._cut or random.random() < self._loss
                        due = CLOCK.monotonic() + self._delay_s
                        if not gone and self._left is not None:
                            self._left -= 1
                            self._cut = self._left <= 0
                    if gone:
                        self.lost += 1
                        continue
                    if key.fd == there and (opening := _opening(packet)) is not None:
                        self._note(Attempt(due, opening))
                    count += 1
                    heapq.heappush(waiting, (due, count, other[key.fd], packet))
                now = CLOCK.monotonic()
                while waiting and waiting[0][0] <= now:
                    _, _, end, packet = heapq.heappop(waiting)
                    # A device that is down or full loses the packet, as a line would.
                    with contextlib.suppress(OSError):
                        os.write(end, packet)

    def _note(self, attempt: Attempt) -> None:
        if all(attempt.opening != known.opening for known in self.attempts[-1000:]):
            self.attempts.append(attempt)


def _opening(packet: bytes) -> bytes | None:
    """Return ports and sequence number of a TCP connection that an IPv4 packet is to open."""
    if packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    segment = packet[(packet[0] & 0x0F) * 4 :]
    return segment[:8] if segment[13] & _SYN_ACK == _SYN else None


def _tun(name: str) -> int:
    end = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    except OSError:
        os.close(end)
        raise
    return end


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
