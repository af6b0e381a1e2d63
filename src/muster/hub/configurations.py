"""Configurations and deployments of a hub: create, read, update, delete.

Few and asked for at every change of a twin, so all of them are kept in memory; the database has
them for the next start. `muster.hub.convergence` makes twins what they say.
Sources: hub-service.md 1.1 rows 18-21, 1.5, 6; edge.md 9.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec

from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
)
from muster.hub.registry import ATTEMPTS, LostRaceError
from muster.model.configuration import (
    Configuration,
    check_content,
    check_id,
    check_labels,
    check_priority,
    same_content,
)
from muster.model.identity import matches
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.hub.hubs import Hub
    from muster.hub.targets import Targets
    from muster.model.configuration import ConfigurationRequest, Content
    from muster.store.engine import Engine

DEFAULT_SCHEMA: Final = "2.0"

_SQL: Final = load("configurations")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Configuration).decode

Listener: TypeAlias = "Callable[[int, str], None]"
"""Is told the hub's number and the ID of a configuration that came, changed or went."""


@final
class Configurations:
    """The configurations of all hubs.

    Args:
        engine: where they are kept.
        clock: for the times of creation and change.
        targets: checks target conditions and metrics, and prepares the conditions.
    """

    def __init__(self, engine: Engine, clock: Clock, targets: Targets) -> None:
        self._engine = engine
        self._clock = clock
        self._targets = targets
        self._of_hub: dict[int, dict[str, Configuration]] = {}
        self._listeners: tuple[Listener, ...] = ()

    async def open(self) -> None:
        """Load all; call once, before anything else."""
        for row in await self._engine.read(_SQL["list"], {}):
            number, _id, _counter, document = cast("tuple[int, str, int, str]", row)
            self._keep(number, _decode(document))

    def subscribe(self, listener: Listener) -> None:
        """Call back after every change, for as long as the service runs."""
        self._listeners = (*self._listeners, listener)

    def all(self, hub: int) -> list[Configuration]:
        """Return the configurations of a hub, by ID."""
        return sorted(self._of_hub.get(hub, {}).values(), key=lambda each: each.id)

    def every(self) -> list[tuple[int, str]]:
        """Return hub and ID of all configurations."""
        return [(hub, name) for hub, found in self._of_hub.items() for name in found]

    def find(self, hub: int, configuration_id: str) -> Configuration | None:
        """Return a configuration, or `None`."""
        return self._of_hub.get(hub, {}).get(configuration_id)

    def get(self, hub: int, configuration_id: str) -> Configuration:
        """Return a configuration.

        Raises:
            NotFoundError: code `configuration-not-found`.
        """
        found = self.find(hub, configuration_id)
        if found is None:
            raise _not_found(configuration_id)
        return found

    async def create(
        self, hub: Hub, configuration_id: str, request: ConfigurationRequest
    ) -> Configuration:
        """Create a configuration; it begins to apply at once.

        Raises:
            AlreadyExistsError: code `configuration-exists`.
            InvalidArgumentError: codes `invalid-configuration-id`,
                `invalid-configuration-content`, `invalid-target-condition`,
                `invalid-configuration-metric`, `invalid-argument`.
        """
        check_id(configuration_id)
        exists = AlreadyExistsError(
            f"A configuration with ID '{configuration_id}' exists already.",
            code="configuration-exists",
            subject=configuration_id,
        )
        if self.find(hub.id, configuration_id) is not None:
            raise exists
        if request.content is None:
            raise InvalidArgumentError(
                "A configuration needs content.", code="invalid-configuration-content"
            )
        check_content(request.content)
        now = self._clock.time()
        made = Configuration(
            id=configuration_id,
            schema_version=request.schema_version or DEFAULT_SCHEMA,
            labels=check_labels(request.labels),
            content=request.content,
            target_condition=(request.target_condition or "").strip(),
            priority=check_priority(request.priority or 0),
            metrics=_metrics(request) or {},
            created_at=now,
            updated_at=now,
        )
        await self._targets.check(made)
        await self._engine.write(
            Statement(_SQL["insert"], _params(hub.id, made), expect=1, otherwise=exists)
        )
        self._changed(hub.id, made)
        return made

    async def update(
        self, hub: Hub, configuration_id: str, request: ConfigurationRequest, if_match: str
    ) -> Configuration:
        """Change labels, target condition, priority or metrics. What is left out stays.

        Raises:
            NotFoundError: code `configuration-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: as `create`; or the content is another; code
                `immutable-configuration-content`.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            before = self._matching(hub.id, configuration_id, if_match)
            _check_same_content(before.content, request)
            after = _updated(before, request, self._clock.time())
            await self._targets.check(after)
            if await self._first("update", _params(hub.id, after), before):
                self._changed(hub.id, after)
                return after
        raise _lost(configuration_id)

    async def delete(self, hub: Hub, configuration_id: str, if_match: str | None) -> None:
        """Delete a configuration. What it set on edge devices stays (hub-service.md 6.5).

        Raises:
            NotFoundError: code `configuration-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            before = self._matching(hub.id, configuration_id, if_match)
            if await self._first("delete", {"hub": hub.id, "id": configuration_id}, before):
                self._of_hub[hub.id].pop(configuration_id, None)
                self._targets.forget(hub.id, configuration_id)
                self._tell(hub.id, configuration_id)
                return
        raise _lost(configuration_id)

    async def _first(
        self, statement: str, parameters: dict[str, str | int], before: Configuration
    ) -> bool:
        """Write a change of what was read before; return whether nobody was faster."""
        try:
            await self._engine.write(
                Statement(
                    _SQL[statement],
                    {**parameters, "expected": before.counter},
                    expect=1,
                    otherwise=_lost(before.id),
                )
            )
        except LostRaceError:
            return False
        return True

    def _matching(self, hub: int, configuration_id: str, if_match: str | None) -> Configuration:
        found = self.get(hub, configuration_id)
        if not matches(if_match, etag(found)):
            raise PreconditionFailedError(
                "Precondition failed: Invalid ETag", code="etag-mismatch", subject=configuration_id
            )
        return found

    def _changed(self, hub: int, configuration: Configuration) -> None:
        self._keep(hub, configuration)
        self._tell(hub, configuration.id)

    def _keep(self, hub: int, configuration: Configuration) -> None:
        self._of_hub.setdefault(hub, {})[configuration.id] = configuration
        self._targets.prepare(hub, configuration)

    def _tell(self, hub: int, configuration_id: str) -> None:
        for listener in self._listeners:
            listener(hub, configuration_id)


def etag(configuration: Configuration) -> str:
    """Return the etag: base64 of the counter's digits, `MQ==` at first."""
    return base64.b64encode(str(configuration.counter).encode()).decode()


def _updated(before: Configuration, request: ConfigurationRequest, now: float) -> Configuration:
    return msgspec.structs.replace(
        before,
        schema_version=request.schema_version or before.schema_version,
        labels=before.labels if request.labels is None else check_labels(request.labels),
        target_condition=(
            before.target_condition
            if request.target_condition is None
            else request.target_condition.strip()
        ),
        priority=before.priority if request.priority is None else check_priority(request.priority),
        metrics=before.metrics if _metrics(request) is None else _metrics(request),
        updated_at=now,
        counter=before.counter + 1,
    )


def _metrics(request: ConfigurationRequest) -> dict[str, str] | None:
    return None if request.metrics is None else request.metrics.queries or {}


def _check_same_content(content: Content, request: ConfigurationRequest) -> None:
    if request.content is not None and not same_content(content, request.content):
        raise InvalidArgumentError(
            "The content of a configuration cannot be changed; create another one.",
            code="immutable-configuration-content",
        )


def _params(hub: int, configuration: Configuration) -> dict[str, str | int]:
    return {
        "hub": hub,
        "id": configuration.id,
        "counter": configuration.counter,
        "document": _encode(configuration).decode(),
    }


def _not_found(configuration_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no configuration '{configuration_id}'.",
        code="configuration-not-found",
        subject=configuration_id,
    )


def _lost(configuration_id: str) -> LostRaceError:
    return LostRaceError("The configuration is being changed by others.", subject=configuration_id)
