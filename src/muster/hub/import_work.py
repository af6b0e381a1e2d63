"""Imports of identities: the lines of a blob, each an operation of its own (hub-service.md 1.3).

Lines are read a window at a time. Within one, operations on the same device keep their order, and
everything else runs side by side. After each window the job notes how far it is, so one that was
cut off repeats a window at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

import msgspec

from muster.errors import InvalidArgumentError, MusterError
from muster.hub import registry
from muster.hub.blobs import IDENTITY_FILES, MAX_BLOB, BlobRef
from muster.hub.bulk import MAX_ENTRIES
from muster.hub.job_rows import SQL, DeviceError, JobOverError, encode_error
from muster.hub.job_runner import check_time
from muster.model.identity import (
    SYSTEM_MODULES,
    BulkEntry,
    device_scope,
    parse_device_scope,
)
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
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - editors write it
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
                batch = layer[start : start + MAX_ENTRIES]
                await self._adopt(job.hub, batch)
                results = await self._bulk.run(job.hub, batch)
                failed += [
                    _Failed(each.entry.id, each.entry.module_id or "", each.error)
                    for each in results
                ]
        await self._note(job, window, failed)

    async def _adopt(self, hub: int, entries: list[BulkEntry]) -> None:
        """Name parents by the scopes they have here: they may have been created anew."""
        parents = {parent for entry in entries for parent in _parents(entry)}
        if not parents:
            return
        params: Params = {"hub": hub, "device_ids": _encode(sorted(parents)).decode()}
        rows = await self._engine.read(registry.SQL["generations_of"], params)
        scopes = {
            device_id: device_scope(device_id, generation_id)
            for device_id, generation_id in cast("list[tuple[str, str]]", rows)
        }
        for entry in entries:
            if isinstance(entry.device_scope, str):
                entry.device_scope = _present(entry.device_scope, scopes)
            if isinstance(entry.parent_scopes, list):
                entry.parent_scopes = [_present(each, scopes) for each in entry.parent_scopes]

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
    """Sort operations: a device is in no layer twice, keeps its order, and follows its parent."""
    parents: dict[str, str] = {}
    for entry in entries:
        for parent in _parents(entry):
            parents[entry.id] = parent
    present = {entry.id for entry in entries}
    layers: dict[int, list[BulkEntry]] = {}
    depths: dict[str, int] = {}
    for entry in entries:
        depth = depths.get(entry.id)
        if depth is None:
            depth = _height(entry.id, parents, present)
        depths[entry.id] = depth + 1
        layers.setdefault(depth, []).append(entry)
    return [layers[depth] for depth in sorted(layers)]


def _height(device_id: str, parents: dict[str, str], present: set[str]) -> int:
    """Return how many of a device's ancestors come with it."""
    height, seen = 0, {device_id}
    while (parent := parents.get(device_id, "")) in present and parent not in seen:
        device_id = parent
        seen.add(device_id)
        height += 1
    return height


def _parents(entry: BulkEntry) -> list[str]:
    """Return the IDs of the devices whose scopes an entry names."""
    scopes = entry.parent_scopes if isinstance(entry.parent_scopes, list) else []
    if isinstance(entry.device_scope, str):
        scopes = [entry.device_scope, *scopes]
    return [parent for scope in scopes if (parent := _owner(scope)) is not None]


def _owner(scope: str) -> str | None:
    try:
        return parse_device_scope(scope)[0]
    except InvalidArgumentError:
        # Empty for none; anything else is refused where it is carried out.
        return None


def _present(scope: str, scopes: dict[str, str]) -> str:
    owner = _owner(scope)
    return scope if owner is None else scopes.get(owner, scope)
