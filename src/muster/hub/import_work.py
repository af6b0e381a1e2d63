"""Imports of identities: the lines of a blob, each an operation of its own (hub-service.md 1.3).

Lines are read a window at a time. Within one, operations on the same device keep their order, and
everything else runs side by side. After each window the job notes how far it is, so one that was
cut off repeats a window at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

import msgspec

from muster.errors import InvalidArgumentError, MusterError
from muster.hub.blobs import IDENTITY_FILES, MAX_BLOB, BlobRef
from muster.hub.bulk import MAX_ENTRIES
from muster.hub.job_rows import SQL, DeviceError, JobOverError, encode_error
from muster.hub.job_runner import check_time
from muster.model.identity import SYSTEM_MODULES, BulkEntry
from muster.model.job import DeviceJobStatus
from muster.model.transfer import ImportFailure, decode_transfer
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from muster.clock import Clock
    from muster.hub.blobs import Blobs
    from muster.hub.bulk import Bulk
    from muster.hub.job_work import ErrorNames
    from muster.model.job import Job
    from muster.store.engine import Engine, Params

WINDOW: Final = 500
"""Lines between two notes of how far it is."""
MAX_LINE: Final = 1 << 20
"""Bytes of a line: an identity with a full twin takes a tenth of it."""
_ERRORS_AT_ONCE: Final = 1_000
_TEXT: Final = "text/plain; charset=utf-8"
_MAKING: Final = frozenset({"", "create", "createorupdate"})

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(BulkEntry).decode


class _Failed(NamedTuple):
    """A line that could not be done."""

    device_id: str
    module_id: str
    error: MusterError


@final
class ImportWork:
    """Carries out the operations of a blob; see `muster.hub.job_runner.Work`."""

    def __init__(
        self, engine: Engine, clock: Clock, blobs: Blobs, bulk: Bulk, error_names: ErrorNames
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._blobs = blobs
        self._bulk = bulk
        self._error_names = error_names

    async def carry_out(self, job: Job) -> None:
        """Do all lines that are not done yet, then write down what went wrong."""
        transfer = decode_transfer(job.action)
        source = BlobRef(job.hub, IDENTITY_FILES, transfer.source)
        await self._blobs.get(source)
        done = job.selected_to or 0
        number = 0
        window: list[tuple[int, bytes]] = []
        async for line in _lines(self._blobs.content(source)):
            number += 1
            if number <= done:
                continue
            window.append((number, line))
            if len(window) == WINDOW:
                await self._carry_out(job, window)
                window = []
        if window:
            await self._carry_out(job, window)
        target = BlobRef(job.hub, IDENTITY_FILES, transfer.target)
        await self._blobs.put(target, self._failures(job), _TEXT, limit=MAX_BLOB)

    async def _carry_out(self, job: Job, window: list[tuple[int, bytes]]) -> None:
        check_time(job, self._clock)
        failed: list[_Failed] = []
        entries: list[BulkEntry] = []
        for number, line in window:
            if not line.strip():
                continue
            try:
                entries += _operations(_decode(line))
            except msgspec.MsgspecError as error:
                wrong = InvalidArgumentError(f"Line {number}: {error}", code="malformed-json")
                failed.append(_Failed("", "", wrong))
        for layer in _layers(entries):
            for start in range(0, len(layer), MAX_ENTRIES):
                results = await self._bulk.run(job.hub, layer[start : start + MAX_ENTRIES])
                failed += [
                    _Failed(each.entry.id, each.entry.module_id or "", each.error)
                    for each in results
                ]
        await self._note(job, window, failed)

    async def _note(self, job: Job, window: list[tuple[int, bytes]], failed: list[_Failed]) -> None:
        now = self._clock.time()
        over = JobOverError("The job is over.")
        count = len(window)
        progress: Params = {
            "number": job.number,
            "devices": count,
            "from": window[0][0] - 1,
            "to": window[-1][0],
            "now": now,
        }
        counts: Params = {
            "number": job.number,
            "running": 0,
            "succeeded": max(0, count - len(failed)),
            "failed": len(failed),
            "now": now,
        }
        steps = [
            Statement(SQL["chosen"], progress, expect=1, otherwise=over),
            Statement(SQL["count"], counts),
        ]
        if failed:
            rows: list[Params] = [
                {
                    "job": job.number,
                    "hub": job.hub,
                    "device_id": each.device_id,
                    "module_id": each.module_id,
                    "status": DeviceJobStatus.FAILED,
                    "error": encode_error(self._error_names(each.error)),
                    "now": now,
                }
                for each in failed
            ]
            steps.append(Statement(SQL["note_failure"], rows))
        await self._engine.write(*steps)

    async def _failures(self, job: Job) -> AsyncIterator[bytes]:
        after = 0
        while rows := await self._engine.read(
            SQL["failures"], {"job": job.number, "after": after, "limit": _ERRORS_AT_ONCE}
        ):
            lines: list[bytes] = []
            for number, device_id, module_id, error in cast(
                "list[tuple[int, str, str, str]]", rows
            ):
                after = number
                found = msgspec.json.decode(error, type=DeviceError)
                failure = ImportFailure(device_id, module_id or None, found.code, found.description)
                lines += (_encode(failure), b"\n")
            yield b"".join(lines)


async def _lines(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split content into lines; the end of the last one may be missing."""
    waiting = b""
    async for chunk in content:
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(waiting) > MAX_LINE:
            raise InvalidArgumentError(
                f"A line of the blob is longer than {MAX_LINE} bytes.", code="invalid-job"
            )
    if waiting:
        yield waiting


def _operations(entry: BulkEntry) -> Sequence[BulkEntry]:
    """Return what a line asks for.

    System modules come with their device: to create one means to give it keys and a twin.
    """
    mode = (entry.import_mode or "").lower()
    if entry.module_id in SYSTEM_MODULES and mode in _MAKING:
        replaced = msgspec.structs.replace
        return (
            replaced(entry, import_mode="update"),
            replaced(entry, import_mode="updateTwin"),
        )
    if entry.capabilities is not None and entry.capabilities.iot_edge:
        # The scope of an edge device is made by the hub.
        entry.device_scope = msgspec.UNSET
    return (entry,)


def _layers(entries: list[BulkEntry]) -> list[list[BulkEntry]]:
    """Sort operations so that no device is in a layer twice, and each keeps its order."""
    layers: list[list[BulkEntry]] = []
    depths: dict[str, int] = {}
    for entry in entries:
        depth = depths.get(entry.id, 0)
        depths[entry.id] = depth + 1
        if depth == len(layers):
            layers.append([])
        layers[depth].append(entry)
    return layers
