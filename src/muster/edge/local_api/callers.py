"""Who calls: the kernel names the process, its runtime knows the module it is of (edge.md 3.3)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, final

from muster.edge.engine.base import EngineError
from muster.edge.identity import AGENT, HUB, container_name
from muster.errors import ForbiddenError
from muster.net.routing import TRANSPORT
from muster.net.stream import PEER_PROCESS, PeerProcess, start_of
from muster.net.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from muster.edge.engine.base import Engine


@final
class Callers:
    """Tells callers apart.

    Args:
        engines: the runtimes.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        # At most a line a second: a module must not fill the disk with what it is refused.
        self._refused = Summary("caller of the workload API refused")

    async def must_be_module(self, request: Request, module_id: str) -> None:
        """Let only processes of a module pass.

        Raises:
            ForbiddenError: the caller is none of them.
        """
        peer = _peer(request)
        if (
            peer is not None
            and peer.pid in await self._processes(module_id)
            # Asked last: the module's process must be the very one that connected.
            and start_of(peer.pid) == peer.started != ""
        ):
            return
        who = "nobody" if peer is None else f"process {peer.pid}, user {peer.user}"
        self._refused.add("it is no process of the module it speaks for", who)
        raise ForbiddenError("forbidden")

    def must_be_owner(self, request: Request) -> None:
        """Let only root, and the user of this process, pass.

        Raises:
            ForbiddenError: the caller is somebody else.
        """
        peer = _peer(request)
        if peer is None or peer.user not in (0, os.geteuid()):
            raise ForbiddenError("forbidden")

    async def _processes(self, module_id: str) -> frozenset[int]:
        if module_id in (AGENT, HUB):
            return frozenset([os.getpid()])  # they are parts of this process
        name = container_name(module_id)
        found = await asyncio.gather(
            *(engine.processes(name) for engine in self._engines), return_exceptions=True
        )
        pids: set[int] = set()
        for each in found:
            if isinstance(each, frozenset):
                pids |= each
            elif not isinstance(each, EngineError):
                raise each
        return frozenset(pids)


def _peer(request: Request) -> PeerProcess | None:
    found: PeerProcess | None = request.scope[TRANSPORT].get_extra_info(PEER_PROCESS)
    return found
