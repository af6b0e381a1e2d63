"""What the machine is and how it does (edge.md 3.2: SystemInfo, SystemResources)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec

from muster import __version__
from muster.edge.identity import AGENT, container_name
from muster.edge.settings import DpsProvisioning, Reprovisioning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.edge.settings import Settings

JsonObject: TypeAlias = dict[str, Any]
_DMI: Final = Path("/sys/class/dmi/id")
_OS_RELEASE: Final = Path("/etc/os-release")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@final
class Machine:
    """This machine.

    Args:
        settings: of the device.
        clock: tells how long this process runs.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock.monotonic()
        self._cpu = _cpu_times()

    def info(self, server_version: str) -> JsonObject:
        """Return what it is; `server_version` is the container engine's, empty without one."""
        kernel = os.uname()
        release = _os_release()
        mode = self._settings.reprovisioning
        is_dps = isinstance(self._settings.provisioning, DpsProvisioning)
        known: JsonObject = {
            "osType": kernel.sysname.lower(),
            "kernel_release": kernel.release,
            "kernel_version": kernel.version,
            "operating_system": release.get("ID", ""),
            "operating_system_version": release.get("VERSION_ID", ""),
            "operating_system_variant": release.get("VARIANT_ID", ""),
            "operating_system_build": release.get("BUILD_ID", ""),
            "architecture": kernel.machine,
            "cpus": os.cpu_count() or 1,
            "total_memory": os.sysconf("SC_PHYS_PAGES") * _PAGE,
            "virtualized": _virtualized(),
            "product_name": _line(_DMI / "product_name"),
            "system_vendor": _line(_DMI / "sys_vendor"),
            "version": __version__,
            "server_version": server_version,
            "provisioning": {
                "type": "dps" if is_dps else "manual",
                "dynamicReprovisioning": mode is Reprovisioning.DYNAMIC,
                "alwaysReprovisionOnStartup": mode is Reprovisioning.ALWAYS_ON_STARTUP,
            },
        }
        return {**self._settings.additional_info, **known}

    def resources(self, usage: Sequence[JsonObject]) -> JsonObject:
        """Return how it does; CPU in percent since this was asked last.

        Args:
            usage: of running modules, as `Engine.usage` has it.
        """
        memory = _memory()
        total = memory.get("MemTotal", 0)
        return {
            "host_uptime": int(uptime_s()),
            "process_uptime": int(self._clock.monotonic() - self._began),
            "used_cpu": self._used_cpu(),
            "used_ram": total - memory.get("MemAvailable", total),
            "total_ram": total,
            "disks": _disks(),
            "docker_stats": msgspec.json.encode(usage).decode(),
        }

    def own_usage(self) -> JsonObject:
        """Return what this process uses, agent and edge hub with it, as `Engine.usage` has it."""
        spent = os.times()
        _, resident, *_ = Path("/proc/self/statm").read_text().split()
        return {
            "name": container_name(AGENT),
            "memory_stats": {"usage": int(resident) * _PAGE},
            "cpu_stats": {"cpu_usage": {"total_usage": int((spent.user + spent.system) * 1e9)}},
            "pids_stats": {"current": threading.active_count()},
        }

    def _used_cpu(self) -> float:
        before, self._cpu = self._cpu, _cpu_times()
        busy, total = (now - then for now, then in zip(self._cpu, before, strict=True))
        return round(100 * busy / total, 2) if total > 0 else 0.0


def uptime_s() -> float:
    """Return the seconds since the machine has booted; 0 where that is not known."""
    return float(_line(Path("/proc/uptime")).partition(" ")[0] or 0)


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    try:
        lines = _OS_RELEASE.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _virtualized() -> str:
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "yes"
    cpu = Path("/proc/cpuinfo")
    try:
        flags = cpu.read_text(errors="replace")
    except OSError:
        return "unknown"
    return "yes" if " hypervisor" in flags else "no"


def _memory() -> dict[str, int]:
    """Return `/proc/meminfo` in bytes."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * (1024 if value.endswith("kB") else 1)
    return found


def _cpu_times() -> tuple[int, int]:
    """Return ticks that all processors were busy, and all ticks (proc(5), /proc/stat)."""
    ticks = [int(each) for each in _line(Path("/proc/stat")).split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _disks() -> list[JsonObject]:
    """Return the file systems on block devices, each device once."""
    found: dict[str, JsonObject] = {}
    for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
        device, place, kind = line.split(" ")[:3]
        if not device.startswith("/dev/") or device in found:
            continue
        try:
            space = os.statvfs(place.replace("\\040", " "))
        except OSError:
            continue
        found[device] = {
            "name": device,
            "available_space": space.f_bavail * space.f_frsize,
            "total_space": space.f_blocks * space.f_frsize,
            "file_system": kind,
            "file_type": _kind_of_disk(device),
        }
    return list(found.values())


def _kind_of_disk(device: str) -> str:
    name = Path(device).resolve().name
    for directory in (Path("/sys/class/block") / name, Path("/sys/class/block") / name / ".."):
        rotates = _line(directory.resolve() / "queue" / "rotational")
        if rotates:
            return "HDD" if rotates == "1" else "SSD"
    return "Unknown"
