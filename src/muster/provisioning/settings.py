"""What the provisioning service as a whole is: its ID scope, default policy and access policies."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, cast

from muster.auth import symmetric_keys
from muster.auth.access_policies import (
    DPS_RIGHTS,
    AccessPolicy,
    Right,
    default_dps_policies,
)
from muster.auth.keyring import Keyring
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import ConflictError, InvalidArgumentError, NotFoundError
from muster.ids import Randomness
from muster.provisioning import allocation
from muster.store.engine import Engine, Statement
from muster.store.queries import load

_SETTINGS = load("settings")
_POLICIES = load("dps_policies")
_ID_SCOPE: Final = "dps.id-scope"
_ALLOCATION: Final = "dps.allocation-policy"
_FAULT_INJECTION: Final = "dps.fault-injection"
_POLICY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ServiceSettings:
    """Loaded once, written through. The ID scope is made on first start and never changes."""

    def __init__(self, engine: Engine, keyring: Keyring, randomness: Randomness) -> None:
        self._engine = engine
        self._keyring = keyring
        self._randomness = randomness
        self.id_scope = ""
        self.allocation_policy = "hashed"
        self.fault_injection = False
        self._policies: dict[str, AccessPolicy] = {}

    async def open(self) -> None:
        """Load, and make what a new service starts with."""
        stored = {str(row[0]): row[1] for row in await self._engine.read(_SETTINGS["all"], {})}
        self.allocation_policy = str(stored.get(_ALLOCATION, self.allocation_policy))
        self.fault_injection = stored.get(_FAULT_INJECTION) == "on"
        self.id_scope = str(stored.get(_ID_SCOPE, ""))
        for name, rights, sealed in cast(
            "list[tuple[str, str, bytes]]", await self._engine.read(_POLICIES["all"], {})
        ):
            primary, _, secondary = self._keyring.open(sealed, _context(name)).partition(" ")
            self._policies[name] = AccessPolicy(
                name,
                SymmetricKeys(primary, secondary),
                frozenset(Right(each) for each in rights.split()),
            )
        if not self.id_scope:
            await self._begin()

    @property
    def owner(self) -> AccessPolicy:
        """A policy with every right, for the instance's own connection string."""
        return next(
            policy
            for policy in self._policies.values()
            if all(policy.allows(right) for right in DPS_RIGHTS)
        )

    def policy(self, name: str) -> AccessPolicy | None:
        """Return an access policy, or `None`."""
        return self._policies.get(name)

    def policies(self) -> list[AccessPolicy]:
        """Return every access policy, by name."""
        return [self._policies[name] for name in sorted(self._policies)]

    async def set_allocation_policy(self, name: str) -> None:
        """Change the service's default allocation policy.

        Raises:
            InvalidArgumentError: unknown, or not supported yet.
        """
        found = allocation.find(name)
        if found is None:
            raise InvalidArgumentError(
                f"The allocation policy '{name[:64]}' is not supported",
                code="unsupported-allocation-policy",
            )
        await self._engine.write(
            Statement(_SETTINGS["put"], {"name": _ALLOCATION, "value": found.name})
        )
        self.allocation_policy = found.name

    async def set_fault_injection(self, *, on: bool) -> None:
        """Let faults be injected into registrations, or not any more."""
        value = "on" if on else "off"
        await self._engine.write(
            Statement(_SETTINGS["put"], {"name": _FAULT_INJECTION, "value": value})
        )
        self.fault_injection = on

    async def save_policy(
        self,
        name: str,
        rights: Collection[Right],
        primary: str | None = None,
        secondary: str | None = None,
    ) -> AccessPolicy:
        """Create or replace a policy. Keys that are not given are kept, or made.

        Raises:
            InvalidArgumentError: name, right or key is malformed.
            ConflictError: nobody would be left with every right; code `last-owner`.
        """
        if not _POLICY_NAME.fullmatch(name) or not rights or not DPS_RIGHTS.issuperset(rights):
            raise InvalidArgumentError(
                "A policy has a name of letters, digits, - and _, and one or more of the rights "
                + ", ".join(sorted(DPS_RIGHTS)),
                code="invalid-policy",
            )
        for key in (primary, secondary):
            if key:
                symmetric_keys.decode(key)
        known = self._policies.get(name)
        kept = known.keys if known else symmetric_keys.generate(self._randomness)
        policy = AccessPolicy(
            name,
            SymmetricKeys(primary or kept.primary, secondary or kept.secondary),
            frozenset(rights),
        )
        self._check_owner({**self._policies, name: policy})
        await self._engine.write(self._put(policy))
        self._policies[name] = policy
        return policy

    async def delete_policy(self, name: str) -> None:
        """Delete a policy.

        Raises:
            NotFoundError: code `policy-not-found`.
            ConflictError: nobody would be left with every right; code `last-owner`.
        """
        if name not in self._policies:
            raise NotFoundError(f"There is no policy '{name}'", code="policy-not-found")
        left = {other: policy for other, policy in self._policies.items() if other != name}
        self._check_owner(left)
        await self._engine.write(Statement(_POLICIES["delete"], {"name": name}))
        self._policies = left

    async def _begin(self) -> None:
        self.id_scope = "0ne" + self._randomness.token_bytes(4).hex().upper()
        self._policies = {each.name: each for each in default_dps_policies(self._randomness)}
        await self._engine.write(
            Statement(_SETTINGS["put"], {"name": _ID_SCOPE, "value": self.id_scope}),
            *(self._put(policy) for policy in self._policies.values()),
        )

    def _put(self, policy: AccessPolicy) -> Statement:
        # A space never occurs in base64.
        pair = f"{policy.keys.primary} {policy.keys.secondary}"
        return Statement(
            _POLICIES["put"],
            {
                "name": policy.name,
                "rights": " ".join(sorted(policy.rights)),
                "keys": self._keyring.seal(pair, _context(policy.name)),
            },
        )

    def _check_owner(self, policies: dict[str, AccessPolicy]) -> None:
        if not any(
            all(policy.allows(right) for right in DPS_RIGHTS) for policy in policies.values()
        ):
            raise ConflictError(
                "One policy must keep every right, or nobody could administer the service",
                code="last-owner",
            )


def _context(name: str) -> str:
    return f"dps-policy:{name}"
