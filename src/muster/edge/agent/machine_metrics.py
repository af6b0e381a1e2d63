"""What the machine and its modules use, under the official names (edge.md 5.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from muster.edge.measures import Summary, one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from muster.edge.measures import Exposition, Labels

JsonObject: TypeAlias = dict[str, Any]
_HOST: Final = "host"
"""What the official agent calls the machine among modules."""
_MODULE: Final = ("module_name",)
_DISK: Final = ("disk_name", "disk_filesystem", "disk_filetype")
_PERCENT: Final = 100.0
_NANO: Final = 1e9


@final
class MachineMetrics:
    """Remembers of processors what a share of time needs: when it was asked last.

    Args:
        processors: of the machine.
    """

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._before: dict[str, tuple[float, float]] = {}
        self._cpu: dict[Labels, Summary] = {}

    def add(
        self, to: Exposition, resources: JsonObject, usage: Iterable[JsonObject], now: float
    ) -> None:
        """Add all of it to an answer.

        Args:
            to: the answer.
            resources: of the machine, as `SystemResources` has them (edge.md 3.2).
            usage: of running modules, as the Docker Engine's statistics have it.
            now: steady seconds.
        """
        uptimes = {"host": resources["host_uptime"], "iotedged": resources["process_uptime"]}
        for what, seconds in uptimes.items():
            text = f"Seconds for which the {what} is up."
            to.gauge(f"edgeAgent_{what}_uptime_seconds", text, (), {(): float(seconds)})
        self._add_disks(to, resources["disks"])
        modules = {each["name"].removeprefix("/"): each for each in usage}
        self._observe(_HOST, float(resources["used_cpu"]))
        for name, each in modules.items():
            self._share(name, each["cpu_stats"]["cpu_usage"]["total_usage"], now)
        self._forget(modules.keys() | {_HOST})
        to.summary(
            "edgeAgent_used_cpu_percent",
            "Share of all processors' time since it was asked last.",
            _MODULE,
            self._cpu,
        )
        used: dict[Labels, float] = {(_HOST,): float(resources["used_ram"])}
        total: dict[Labels, float] = {(_HOST,): float(resources["total_ram"])}
        for name, each in modules.items():
            memory = each["memory_stats"]
            used[name,] = float(memory.get("usage", 0))
            if "limit" in memory:
                total[name,] = float(memory["limit"])
        to.gauge("edgeAgent_used_memory_bytes", "Memory in use.", _MODULE, used)
        to.gauge("edgeAgent_total_memory_bytes", "Memory that can be used.", _MODULE, total)
        for name, text, value in _OF_MODULES:
            found: dict[Labels, float] = {
                (module,): read for module, each in modules.items() for read in value(each)
            }
            to.gauge(f"edgeAgent_{name}", text, _MODULE, found)

    def _add_disks(self, to: Exposition, disks: Iterable[JsonObject]) -> None:
        for name in ("available", "total"):
            values: dict[Labels, float] = {
                (disk["name"], disk["file_system"], disk["file_type"]): float(disk[f"{name}_space"])
                for disk in disks
            }
            text = f"Room on a disk, {name}."
            to.gauge(f"edgeAgent_{name}_disk_space_bytes", text, _DISK, values)

    def _share(self, name: str, total_ns: float, now: float) -> None:
        before = self._before.get(name)
        self._before[name] = total_ns, now
        # A module that was started anew has used less than before.
        if before is not None and now > before[1] and total_ns >= before[0]:
            available_ns = (now - before[1]) * self._processors * _NANO
            self._observe(name, _PERCENT * (total_ns - before[0]) / available_ns)

    def _observe(self, name: str, percent: float) -> None:
        one_of(self._cpu, (name,)).observe(percent)

    def _forget(self, there: set[str]) -> None:
        """Forget modules that are gone."""
        self._before = {name: found for name, found in self._before.items() if name in there}
        self._cpu = {key: found for key, found in self._cpu.items() if key[0] in there}


def _pids(usage: JsonObject) -> Iterator[float]:
    if current := (usage.get("pids_stats") or {}).get("current"):
        yield float(current)


def _received(usage: JsonObject) -> Iterator[float]:
    yield from _network(usage, "rx_bytes")


def _sent(usage: JsonObject) -> Iterator[float]:
    yield from _network(usage, "tx_bytes")


def _network(usage: JsonObject, which: str) -> Iterator[float]:
    # A module with the machine's own network has none of its own to count.
    if networks := usage.get("networks"):
        yield float(sum(each.get(which, 0) for each in networks.values()))


def _read(usage: JsonObject) -> Iterator[float]:
    yield from _disk(usage, "read")


def _written(usage: JsonObject) -> Iterator[float]:
    yield from _disk(usage, "write")


def _disk(usage: JsonObject, which: str) -> Iterator[float]:
    entries = (usage.get("blkio_stats") or {}).get("io_service_bytes_recursive")
    if entries is not None:
        yield float(sum(each["value"] for each in entries if each["op"].lower() == which))


_OF_MODULES: Final = (
    ("created_pids_total", "Processes and threads.", _pids),
    ("total_network_in_bytes", "Bytes received from networks.", _received),
    ("total_network_out_bytes", "Bytes sent to networks.", _sent),
    ("total_disk_read_bytes", "Bytes read from disks.", _read),
    ("total_disk_write_bytes", "Bytes written to disks.", _written),
)
