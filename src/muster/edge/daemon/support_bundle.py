"""Support bundles: what somebody far away needs to help (edge.md 7), without keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec

from muster.edge.archive import entry
from muster.edge.engine.base import EngineError, LogRange
from muster.edge.local_api.modules import BUILT_IN

if TYPE_CHECKING:
    import datetime as dt

    from muster.clock import Clock
    from muster.edge.local_api.machine import Machine
    from muster.edge.local_api.modules import Modules

JsonObject: TypeAlias = dict[str, Any]
MOST: Final = 64 * 1024 * 1024
"""Bytes of one module's log in a bundle; a device's disk is small."""
_SECRET: Final = re.compile(
    r"key|secret|password|token|signature|connection_?string|credential", re.IGNORECASE
)
_ASSIGNED: Final = re.compile(r"(?P<name>[^=]*)=(?P<value>.*)", re.DOTALL)


@final
class SupportBundles:
    """Implements `agent.ports.SupportBundles` and `local_api.management.Bundles`.

    Args:
        modules: whose logs and facts go in.
        machine: whose facts go in, too.
        clock: dates the entries.
    """

    def __init__(self, modules: Modules, machine: Machine, clock: Clock) -> None:
        self._modules = modules
        self._machine = machine
        self._clock = clock

    async def make(
        self, since: dt.datetime | None, until: dt.datetime | None, *, runtime_only: bool
    ) -> Path:
        """Write an archive and return its path; the caller removes it.

        Args:
            since: logs not before.
            until: logs not after.
            runtime_only: leave out modules other than `edgeAgent` and `edgeHub`.

        Raises:
            EngineError: no runtime answers.
            OSError: the disk is full.
        """
        details = await self._modules.details()
        handle, name = await asyncio.to_thread(tempfile.mkstemp, ".zip", "support_bundle_")
        os.close(handle)
        path = Path(name)
        try:
            with zipfile.ZipFile(path, "w") as archive:
                self._write(archive, "modules.json", details)
                self._write(archive, "runtimes.json", await self._modules.runtimes())
                self._write(archive, "system.json", self._machine.info(""))
                for network, facts in (await self._modules.networks()).items():
                    self._write(archive, f"network/{network}.json", without_secrets(facts))
                for module in details:
                    if not runtime_only or module["name"] in BUILT_IN:
                        await self._add(archive, module["name"], since, until)
        except BaseException:  # cancelled, too: nobody else knows of the file
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise
        return path

    def _write(self, archive: zipfile.ZipFile, name: str, value: Any) -> None:
        archive.writestr(entry(name, self._clock.now()), _json(value))

    async def _add(
        self,
        archive: zipfile.ZipFile,
        name: str,
        since: dt.datetime | None,
        until: dt.datetime | None,
    ) -> None:
        size = 0
        with archive.open(entry(f"logs/{name}_log.txt", self._clock.now()), "w") as file:
            try:
                wanted = LogRange(since=since, until=until, timestamps=True)
                async for chunk in await self._modules.logs(name, wanted):
                    size += len(chunk.data)
                    if size > MOST:
                        file.write(b"\n(cut off here: the log is too long)\n")
                        break
                    await asyncio.to_thread(file.write, chunk.data)
            except EngineError as error:
                file.write(f"\n(no more: {error})\n".encode())
        engine = await self._modules.engine_of(name)
        if engine is not None:
            with contextlib.suppress(EngineError):
                facts = without_secrets(await engine.inspect(name))
                self._write(archive, f"inspect/{name}.json", facts)


def without_secrets(value: Any) -> Any:
    """Return JSON in which everything that is named like a secret is replaced.

    Also `NAME=value` texts, as environments have them.
    """
    if isinstance(value, dict):
        return {
            name: "***"
            if _SECRET.search(name) and not isinstance(each, dict | list)
            else without_secrets(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    if isinstance(value, str):
        assigned = _ASSIGNED.fullmatch(value)
        if assigned and _SECRET.search(assigned["name"]):
            return f"{assigned['name']}=***"
    return value


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)
