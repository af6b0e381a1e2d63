"""The hubs of this service and their access policies.

Hubs are few and asked for on every call, so all of them, policies included, are kept in memory;
the database has them for the next start.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, cast, final

from msgspec import Struct

from muster.auth import symmetric_keys
from muster.auth.access_policies import (
    HUB_RIGHTS,
    AccessPolicy,
    Right,
    default_hub_policies,
)
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnauthorizedError,
)
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Collection

    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.hub.fault_injection import HubFaults
    from muster.ids import Randomness
    from muster.store.engine import Engine, Params

MAX_POLICIES: Final = 64
"""Policies of one hub. Azure stops at 16 (hub-service.md 2.1); this is only a bound."""

MIN_AGE_S: Final = 60.0
MAX_AGE_S: Final = 3660 * 86_400.0
MIN_BYTES: Final = 1 << 20
MAX_BYTES: Final = 1 << 50
"""What retention can be."""

_SQL_HUBS: Final = load("hubs")
_SQL_POLICIES: Final = load("hub_policies")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_POLICY_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Retention(Struct, frozen=True):
    """How long a hub keeps telemetry; `None` for what the service does by default.

    Attributes:
        max_age_s: seconds after which it may be deleted.
        max_bytes: size of a log above which the oldest is deleted.
    """

    max_age_s: float | None = None
    max_bytes: int | None = None


@final
class Hub:
    """One hub.

    Attributes:
        id: small number under which the database keeps everything of this hub.
        host: its host name, lower case.
        names: what it may be called in tokens: the host and, for an only hub, the other names of
            the instance.
        created_at: unix seconds.
        policies: by name.
        retention: of its telemetry.
        faults: what is injected into its traffic; `None` while fault injection is off.
        twin_catch_up: whether clients are sent the desired properties they missed: 0 for no,
            else another number each time it was switched on.
    """

    __slots__ = (
        "created_at",
        "faults",
        "host",
        "id",
        "names",
        "policies",
        "retention",
        "twin_catch_up",
    )

    def __init__(self, number: int, host: str, created_at: float) -> None:
        self.id = number
        self.host = host
        self.created_at = created_at
        self.names: frozenset[str] = frozenset({host})
        self.policies: dict[str, AccessPolicy] = {}
        self.retention = Retention()
        self.faults: HubFaults | None = None
        self.twin_catch_up = 0

    @property
    def name(self) -> str:
        """What the hub calls itself in messages, as Azure does: the host up to its first dot."""
        first, _, rest = self.host.partition(".")
        return self.host if rest.replace(".", "").isdigit() else first

    def policy(self, name: str) -> AccessPolicy | None:
        """Return a policy by its name (case-sensitive)."""
        return self.policies.get(name)


@final
class Hubs:
    """All hubs of this service.

    Args:
        engine: where they are kept.
        keyring: seals the keys of policies.
        clock: for the time of creation.
        randomness: for keys.
        aliases: other names by which the instance is reached (`localhost`, an address). They
            stand for the hub as long as there is only one.
    """

    __slots__ = (
        "_aliases",
        "_by_host",
        "_by_id",
        "_clock",
        "_creating",
        "_engine",
        "_keyring",
        "_randomness",
    )

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
        aliases: Collection[str] = (),
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock = clock
        self._randomness = randomness
        self._aliases = frozenset(map(str.lower, aliases))
        self._by_host: dict[str, Hub] = {}
        self._by_id: dict[int, Hub] = {}
        self._creating = asyncio.Lock()

    async def open(self) -> None:
        """Load every hub; call once, before anything else."""
        hubs: dict[int, Hub] = {}
        for row in await self._engine.read(_SQL_HUBS["list"], {}):
            number, host, created_at, max_age_s, max_bytes = cast(
                "tuple[int, str, float, float | None, int | None]", row
            )
            hubs[number] = Hub(number, host, created_at)
            hubs[number].retention = Retention(max_age_s, max_bytes)
        for row in await self._engine.read(_SQL_POLICIES["list"], {}):
            number, name, rights, sealed = cast("tuple[int, str, str, bytes]", row)
            hub = hubs[number]
            hub.policies[name] = self._unsealed(hub, name, rights, sealed)
        self._by_host = {hub.host: hub for hub in hubs.values()}
        self._by_id = hubs
        self._name()

    def all(self) -> list[Hub]:
        """Return all hubs in the order of their creation."""
        return sorted(self._by_host.values(), key=lambda hub: hub.id)

    def get(self, host: str) -> Hub:
        """Return the hub of exactly this host name, in any case.

        Raises:
            NotFoundError: code `hub-not-found`.
        """
        hub = self._by_host.get(host.lower())
        if hub is None:
            raise NotFoundError(f"There is no hub '{host}' here", code="hub-not-found")
        return hub

    def by_id(self, number: int) -> Hub:
        """Return the hub of a number that something of it carries."""
        return self._by_id[number]

    def find(self, host: str) -> Hub | None:
        """Return the hub a client means that says it talks to `host` (perhaps with a port)."""
        host = without_port(host.lower())
        hub = self._by_host.get(host)
        if hub is None and len(self._by_host) == 1 and host in self._aliases:
            (hub,) = self._by_host.values()
        return hub

    def for_request(self, host: str | None) -> Hub:
        """Return the hub a service call is for.

        An only hub answers under every name: a back end may reach it through a tunnel or a proxy,
        and its token still says which hub it is for.

        Args:
            host: the `Host` header.

        Raises:
            UnauthorizedError: there are several hubs and none is called that; code
                `unknown-hub` (on the wire 401001 IotHubNotFound, hub-service.md 2.3).
        """
        hub = self.find(host or "")
        if hub is None and len(self._by_host) == 1:
            (hub,) = self._by_host.values()
        if hub is None:
            raise UnauthorizedError("There is no such hub here", code="unknown-hub")
        return hub

    async def create(self, host: str) -> Hub:
        """Make a hub with its five standard policies (hub-service.md 2.1).

        Raises:
            AlreadyExistsError: code `hub-exists`.
            InvalidArgumentError: the host name is malformed; code `invalid-host`.
        """
        async with self._creating:
            return await self._create(host.lower())

    async def _create(self, host: str) -> Hub:
        if not _HOST.fullmatch(host):
            raise InvalidArgumentError(
                f"{host[:253]!a} is not the host name of a hub: letters, digits, dots and hyphens",
                code="invalid-host",
            )
        exists = AlreadyExistsError(f"The hub '{host}' exists already", code="hub-exists")
        if host in self._by_host:
            raise exists
        number = 1 + max((known.id for known in self._by_host.values()), default=0)
        hub = Hub(number, host, self._clock.time())
        hub.policies = {policy.name: policy for policy in default_hub_policies(self._randomness)}
        await self._engine.write(
            Statement(
                _SQL_HUBS["insert"],
                {"id": hub.id, "host": host, "created_at": hub.created_at},
                expect=1,
                otherwise=exists,
            ),
            Statement(_SQL_HUBS["insert_counts"], {"id": hub.id}),
            Statement(
                _SQL_POLICIES["save"],
                [self._sealed(hub, policy) for policy in hub.policies.values()],
            ),
        )
        self._by_host[host] = self._by_id[hub.id] = hub
        self._name()
        return hub

    async def save_retention(self, hub: Hub, retention: Retention) -> None:
        """Keep telemetry of a hub for another time or size.

        Raises:
            InvalidArgumentError: code `invalid-retention`.
        """
        age, size = retention.max_age_s, retention.max_bytes
        if age is not None and not MIN_AGE_S <= age <= MAX_AGE_S:
            raise InvalidArgumentError(
                "Telemetry can be kept for 1 minute to 10 years.", code="invalid-retention"
            )
        if size is not None and not MIN_BYTES <= size <= MAX_BYTES:
            raise InvalidArgumentError(
                "Telemetry of a hub can take 1 MiB to 1 PiB.", code="invalid-retention"
            )
        await self._engine.write(
            Statement(
                _SQL_HUBS["save_retention"],
                {"id": hub.id, "max_age_s": age, "max_bytes": size},
                expect=1,
            )
        )
        hub.retention = retention

    def policy(self, hub: Hub, name: str) -> AccessPolicy:
        """Return a policy of a hub.

        Raises:
            NotFoundError: code `policy-not-found`.
        """
        found = hub.policies.get(name)
        if found is None:
            raise _policy_missing(name)
        return found

    async def save_policy(
        self,
        hub: Hub,
        name: str,
        rights: Collection[Right],
        primary: str | None = None,
        secondary: str | None = None,
    ) -> AccessPolicy:
        """Create or replace a policy. Keys that are not given are kept, or generated.

        Raises:
            InvalidArgumentError: codes `invalid-policy`, `invalid-key`.
        """
        if not _POLICY_NAME.fullmatch(name):
            raise InvalidArgumentError(
                "A policy's name is 1 to 64 letters, digits, dots, hyphens and underscores",
                code="invalid-policy",
            )
        granted = frozenset(rights)
        if not granted or not granted <= HUB_RIGHTS:
            raise InvalidArgumentError(
                f"A hub policy has one or more of the rights {', '.join(sorted(HUB_RIGHTS))}",
                code="invalid-policy",
            )
        present = hub.policies.get(name)
        if present is None and len(hub.policies) >= MAX_POLICIES:
            raise InvalidArgumentError(
                f"A hub has at most {MAX_POLICIES} policies", code="invalid-policy"
            )
        for key in (primary, secondary):
            if key:
                symmetric_keys.decode(key)
        keys = SymmetricKeys(
            primary or (present.keys.primary if present else self._randomness.key()),
            secondary or (present.keys.secondary if present else self._randomness.key()),
        )
        policy = AccessPolicy(name, keys, granted)
        await self._engine.write(Statement(_SQL_POLICIES["save"], self._sealed(hub, policy)))
        hub.policies[name] = policy
        return policy

    async def delete_policy(self, hub: Hub, name: str) -> None:
        """Delete a policy.

        Raises:
            NotFoundError: code `policy-not-found`.
        """
        await self._engine.write(
            Statement(
                _SQL_POLICIES["delete"],
                {"hub": hub.id, "name": name},
                expect=1,
                otherwise=_policy_missing(name),
            )
        )
        hub.policies.pop(name, None)

    def _name(self) -> None:
        only = len(self._by_host) == 1
        for hub in self._by_host.values():
            hub.names = frozenset({hub.host}) | (self._aliases if only else frozenset())

    def _sealed(self, hub: Hub, policy: AccessPolicy) -> Params:
        # A space never occurs in base64.
        pair = f"{policy.keys.primary} {policy.keys.secondary}"
        return {
            "hub": hub.id,
            "name": policy.name,
            "rights": " ".join(sorted(policy.rights)),
            "keys": self._keyring.seal(pair, _context(hub, policy.name)),
        }

    def _unsealed(self, hub: Hub, name: str, rights: str, sealed: bytes) -> AccessPolicy:
        primary, _, secondary = self._keyring.open(sealed, _context(hub, name)).partition(" ")
        return AccessPolicy(
            name, SymmetricKeys(primary, secondary), frozenset(map(Right, rights.split()))
        )


def without_port(host: str) -> str:
    """Return a `Host` header's name: without `:port`, and without brackets for IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


def _policy_missing(name: str) -> NotFoundError:
    return NotFoundError(f"The hub has no policy '{name}'", code="policy-not-found")


def _context(hub: Hub, policy: str) -> str:
    return f"hub-policy/{hub.id}/{policy}"
