"""What the agent keeps on the device: the last good deployment, and restarts (edge.md 5.3).

Deployments carry credentials, so nobody else reads these files. One that is damaged is put aside
and never trusted: the device then keeps what it runs until the hub says what it should.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from muster.edge import foreign_json
from muster.edge.agent.restarts import Restarts
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.state import StateDirectory

JsonObject: TypeAlias = dict[str, Any]

_DIRECTORY: Final = "agent"
_DEPLOYMENT: Final = "deployment.json"
_RESTARTS: Final = "restarts.json"

_log = structlog.get_logger(__name__)


class _SavedDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment whose every bit counts: JSON that has lost one may still be JSON."""

    owner: str
    desired: msgspec.Raw
    digest: str


class AgentStore:
    """The agent's files. Calls block: keep them off the event loop.

    Args:
        home: directory of all state of the device.
    """

    def __init__(self, home: Path) -> None:
        self._home: Final = home

    def load_deployment(self, owner: str) -> JsonObject | None:
        """Return the desired properties last saved.

        Args:
            owner: the identity they must be of; those of another one are none of ours.

        Returns:
            `None` where there are none, or none that can be trusted.
        """
        directory = self._directory()
        saved = directory and directory.read(_DEPLOYMENT, _SavedDeployment)
        if directory is None or saved is None or saved.owner != owner:
            return None
        if _digest(saved.desired) == saved.digest:
            with contextlib.suppress(ForeignJsonError):
                return foreign_json.decode(saved.desired, dict[str, Any])
        _log.error("the deployment kept on the device is damaged, and put aside")
        with contextlib.suppress(OSError):
            (directory.home / _DEPLOYMENT).replace(directory.home / f"{_DEPLOYMENT}.bad")
        return None

    def save_deployment(self, owner: str, desired: JsonObject) -> None:
        """Keep desired properties that are a deployment.

        Raises:
            OSError: they could not be written; what was there before still is.
        """
        content = msgspec.json.encode(desired)
        saved = _SavedDeployment(owner=owner, desired=msgspec.Raw(content), digest=_digest(content))
        self._made().write(_DEPLOYMENT, saved)

    def load_restarts(self) -> dict[str, Restarts]:
        """Return the restarts last saved, by module; none where they are lost."""
        directory = self._directory()
        return (directory and directory.read(_RESTARTS, dict[str, Restarts])) or {}

    def save_restarts(self, restarts: Mapping[str, Restarts]) -> None:
        """Keep restarts.

        Raises:
            OSError: as above.
        """
        self._made().write(_RESTARTS, dict(restarts))

    def _directory(self) -> StateDirectory | None:
        try:
            return self._made()
        except OSError as error:
            _log.error("the agent's files cannot be read", error=str(error))
            return None

    def _made(self) -> StateDirectory:
        return StateDirectory(self._home / _DIRECTORY)


def _digest(content: bytes | msgspec.Raw) -> str:
    return hashlib.sha256(content).hexdigest()
