"""Exports of identities: a line for each device, followed by its modules (hub-service.md 1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
from msgspec import UNSET

from muster.hub.blobs import IDENTITY_FILES, MAX_BLOB, BlobRef
from muster.hub.job_rows import SQL, JobOverError
from muster.hub.job_runner import check_time
from muster.model import twin as twin_rules
from muster.model.identity import Authentication, IdentityRef, ModuleIdentity
from muster.model.transfer import ExportedIdentity, ExportedProperties, decode_transfer
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.clock import Clock
    from muster.hub.blobs import Blobs
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.hub.twins import Twins
    from muster.model.identity import DeviceIdentity
    from muster.model.job import Job
    from muster.model.twin import Twin
    from muster.store.engine import Engine

PAGE: Final = 100
"""Devices read at a time."""
_TEXT: Final = "text/plain; charset=utf-8"

_encode: Final = msgspec.json.Encoder().encode


@final
class ExportWork:
    """Writes all identities of a hub into a blob; see `muster.hub.job_runner.Work`."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        blobs: Blobs,
        *,
        identities: Identities,
        modules: Modules,
        twins: Twins,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._blobs = blobs
        self._identities = identities
        self._modules = modules
        self._twins = twins

    async def carry_out(self, job: Job) -> None:
        """Write the blob, from the beginning also when an earlier run did not come to its end."""
        transfer = decode_transfer(job.action)
        total = (await self._identities.statistics(job.hub)).total_device_count
        await self._count(job, "restart", total)
        lines = self._lines(job, without_keys=transfer.without_keys)
        target = BlobRef(job.hub, IDENTITY_FILES, transfer.target)
        await self._blobs.put(target, lines, _TEXT, limit=MAX_BLOB)

    async def _lines(self, job: Job, *, without_keys: bool) -> AsyncIterator[bytes]:
        after = ""
        while devices := await self._identities.page(job.hub, PAGE, after):
            check_time(job, self._clock)
            names = [device.device_id for device in devices]
            after = names[-1]
            twins = await self._twins.between(job.hub, names[0], after)
            modules: dict[str, list[ModuleIdentity]] = {}
            for module in await self._modules.of_devices(job.hub, names):
                modules.setdefault(module.device_id, []).append(module)
            written: list[bytes] = []
            for device in devices:
                for identity in (device, *modules.get(device.device_id, ())):
                    module_id = identity.module_id if isinstance(identity, ModuleIdentity) else ""
                    twin = twins.get(IdentityRef(job.hub, device.device_id, module_id))
                    if twin is not None:
                        # Without a twin it came or went since it was read.
                        written += (_line(identity, twin, without_keys=without_keys), b"\n")
            yield b"".join(written)
            await self._count(job, "advance", len(devices))

    async def _count(self, job: Job, query: str, devices: int) -> None:
        params = {"number": job.number, "now": self._clock.time(), "running": 0, "failed": 0}
        params |= (
            {"devices": devices, "succeeded": 0}
            if query == "restart"
            else {"devices": 0, "succeeded": devices}
        )
        over = JobOverError("The job is over.")
        await self._engine.write(Statement(SQL[query], params, expect=1, otherwise=over))


def _line(identity: DeviceIdentity | ModuleIdentity, twin: Twin, *, without_keys: bool) -> bytes:
    view = twin_rules.service_view(twin)
    authentication = identity.authentication
    if without_keys:
        authentication = Authentication(None, authentication.x509_thumbprint, authentication.type)
    line = ExportedIdentity(
        id=identity.device_id,
        e_tag=identity.etag,
        authentication=authentication,
        twin_e_tag=twin.etag,
        tags=twin.tags,
        properties=ExportedProperties(view["desired"], view["reported"]),
    )
    if isinstance(identity, ModuleIdentity):
        line.module_id = identity.module_id
        line.managed_by = identity.managed_by
    else:
        line.status = identity.status
        line.status_reason = identity.status_reason
        line.capabilities = identity.capabilities
        line.device_scope = identity.device_scope or UNSET
        line.parent_scopes = identity.parent_scopes
    return _encode(line)
