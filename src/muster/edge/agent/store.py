"""What the agent keeps on the device: the last good deployment, and restarts (edge.md 5.3).

Two files that only their owner reads, for deployments carry credentials. Each is written whole or
not at all, and only when its content changes. One that is damaged is set aside and never trusted:
the device then keeps what it runs until the hub says what it should.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from muster.auth import private_file
from muster.edge.agent.restarts import Restarts
from muster.errors import InvalidArgumentError

JsonObject: TypeAlias = dict[str, Any]

_log = structlog.get_logger(__name__)


class _Sealed(msgspec.Struct):
    """A file's content, which its digest must match."""

    content: msgspec.Raw
    digest: str


class _SavedDeployment(msgspec.Struct):
    owner: str
    desired: JsonObject


class _SavedRestarts(msgspec.Struct):
    count: int
    last_at: datetime | None = None


class AgentStore:
    """The two files. Calls block: keep them off the event loop."""

    def __init__(self, directory: Path) -> None:
        self._deployment: Final = directory / "deployment.json"
        self._restarts: Final = directory / "restarts.json"
        self._directory: Final = directory

    def load_deployment(self, owner: str) -> JsonObject | None:
        """Return the desired properties last saved.

        Args:
            owner: the identity they must be of; those of another one are none of ours.

        Returns:
            `None` where there are none, or none that can be trusted.
        """
        saved: _SavedDeployment | None = self._load(self._deployment, _SavedDeployment)
        if saved is None or saved.owner != owner:
            return None
        return saved.desired

    def save_deployment(self, owner: str, desired: JsonObject) -> None:
        """Keep desired properties that are a deployment.

        Raises:
            OSError: they could not be written; what was there before still is.
        """
        self._save(self._deployment, _SavedDeployment(owner, desired))

    def load_restarts(self) -> dict[str, Restarts]:
        """Return the restarts last saved, by module; none where they are lost."""
        saved = self._load(self._restarts, dict[str, _SavedRestarts]) or {}
        return {name: Restarts(one.count, one.last_at) for name, one in saved.items()}

    def save_restarts(self, restarts: dict[str, Restarts]) -> None:
        """Keep restarts.

        Raises:
            OSError: as above.
        """
        self._save(
            self._restarts,
            {name: _SavedRestarts(one.count, one.last_at) for name, one in restarts.items()},
        )

    def _save(self, file: Path, value: Any) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.encode(value)
        sealed = _Sealed(msgspec.Raw(content), hashlib.sha256(content).hexdigest())
        private_file.replace(file, msgspec.json.encode(sealed), 0o600)

    def _load(self, file: Path, kind: Any) -> Any:
        try:
            sealed = msgspec.json.decode(private_file.read_private(file), type=_Sealed)
            content = bytes(sealed.content)
            if hashlib.sha256(content).hexdigest() == sealed.digest:
                return msgspec.json.decode(content, type=kind)
            problem = "its digest does not match"
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            problem = str(error)
        except (OSError, InvalidArgumentError) as error:
            _log.error("a file of the agent cannot be read", file=str(file), error=str(error))
            return None
        aside = file.with_suffix(".damaged")
        _log.error("a file of the agent is damaged", file=str(file), kept=str(aside), error=problem)
        try:
            file.replace(aside)
        except OSError as error:
            _log.warning("it could not be set aside", file=str(file), error=str(error))
        return None
