"""Identities that an edge hub knows, and how they are below each other (edge.md 6.4, 6.5)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, final

from msgspec import Struct

from muster.auth import symmetric_keys
from muster.edge.upstream.authentication import Authentication, Keys, Thumbprints
from muster.edge.upstream.device_scope import (
    MAX_DEPTH,
    ScopeCapabilities,
    ScopeDevice,
    ScopeModule,
    ScopePage,
)
from muster.errors import InvalidArgumentError
from muster.model.identity import IdentityRef

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENABLED: Final = "enabled"


class Member(Struct, frozen=True, kw_only=True):
    """An identity of the scope.

    Attributes:
        device_id: of the device.
        module_id: empty for the device itself.
        generation_id: tells identities of one name apart.
        enabled: whether it may connect.
        kind: how it proves itself, `sas`, `selfSigned`, `certificateAuthority` or `none`.
        keys: base64, for `sas`.
        thumbprints: for `selfSigned`.
        iot_edge: whether it is an edge device.
        scope: of an edge device, which those below it name as their parent.
        parent: scope of the edge device above; empty for a module.
    """

    device_id: str
    module_id: str = ""
    generation_id: str = ""
    enabled: bool = True
    kind: str = "none"
    keys: tuple[str, ...] = ()
    thumbprints: tuple[str, ...] = ()
    iot_edge: bool = False
    scope: str = ""
    parent: str = ""

    @property
    def ref(self) -> IdentityRef:
        """Its name."""
        return local(self.device_id, self.module_id)

    def raw_keys(self) -> list[bytes]:
        """Return its keys, those that are none left out."""
        found = []
        for key in self.keys:
            with contextlib.suppress(InvalidArgumentError):
                found.append(symmetric_keys.decode(key))
        return found

    def __repr__(self) -> str:
        return f"Member({self.ref.text!r}, keys=***)"


def local(device_id: str, module_id: str = "") -> IdentityRef:
    """Name an identity; there is one hub here."""
    return IdentityRef(0, device_id, module_id)


@final
class Members:
    """All of them.

    Args:
        device_id: of this device.
    """

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._found: dict[IdentityRef, Member] = {}
        self._edges: dict[str, str] = {}

    def find(self, ref: IdentityRef) -> Member | None:
        """Return a member."""
        return self._found.get(ref)

    def names(self) -> list[IdentityRef]:
        """Return all members."""
        return list(self._found)

    def put(self, members: Iterable[Member]) -> None:
        """Take members, in the place of those of the same name."""
        for member in members:
            self.drop(member.ref)
            self._found[member.ref] = member
            if member.scope:
                self._edges[member.scope] = member.device_id

    def drop(self, ref: IdentityRef) -> None:
        """Let a member go; nothing where there is none."""
        member = self._found.pop(ref, None)
        if member is not None:
            self._edges.pop(member.scope, None)

    def lineage(self, ref: IdentityRef) -> list[str]:
        """Return who stands between an identity and this device.

        Returns:
            Names from the identity's up to this device's; empty where it is not known to be below
            this device, is too deep below it, or has a name that no chain can hold.
        """
        names = [ref.text] if ref.module_id else []
        device_id = ref.device_id
        for _ in range(MAX_DEPTH + 1):
            names.append(device_id)
            if device_id == self._device_id:
                return names if all(";" not in name for name in names) else []
            member = self._found.get(local(device_id))
            if member is None or member.parent not in self._edges:
                return []
            device_id = self._edges[member.parent]
        return []

    def auth_chain(self, ref: IdentityRef) -> str | None:
        """Return the lineage of an identity as `authChain` has it.

        Returns:
            Names joined by `;`; `None` where there is no lineage, or a device of it is disabled.
        """
        names = self.lineage(ref)
        devices = [self._found.get(local(name)) for name in names if "/" not in name]
        if not names or any(each is not None and not each.enabled for each in devices):
            return None
        return ";".join(names)

    def below(self, device_id: str) -> set[IdentityRef]:
        """Return an edge device and everybody below it, however deep."""
        return {ref for ref in self._found if device_id in self.lineage(local(ref.device_id))}

    def scope_of(self, device_id: str) -> list[Member]:
        """Return the devices of an edge device's scope, itself included, in order of their IDs."""
        edge = self._found.get(local(device_id))
        if edge is None:
            return []
        found = [each for each in self._found.values() if edge.scope and each.parent == edge.scope]
        found.append(edge)
        return sorted(found, key=lambda member: member.device_id)

    def modules_of(self, device_ids: set[str]) -> list[Member]:
        """Return the modules of some devices, in the order of their IDs."""
        found = [
            member
            for member in self._found.values()
            if member.module_id and member.device_id in device_ids
        ]
        return sorted(found, key=lambda member: (member.device_id, member.module_id))


def of_page(page: ScopePage) -> dict[IdentityRef, Member]:
    """Return those that a page of a scope tells of."""
    found = [_device(each) for each in page.devices or ()]
    # A module has no status of its own that would count (edge.md 6.4).
    found += [
        Member(
            device_id=each.device_id,
            module_id=each.module_id,
            generation_id=each.generation_id,
            **_proof(each.authentication),
        )
        for each in page.modules or ()
    ]
    return {member.ref: member for member in found}


def page_of(
    devices: Iterable[Member], modules: Iterable[Member], continuation_link: str | None = None
) -> ScopePage:
    """Return a page that tells of these."""
    return ScopePage(
        devices=[
            ScopeDevice(
                device_id=each.device_id,
                generation_id=each.generation_id,
                status=_ENABLED if each.enabled else "disabled",
                device_scope=(each.scope if each.iot_edge else each.parent) or None,
                parent_scopes=[each.parent] if each.parent else [],
                capabilities=ScopeCapabilities(iot_edge=each.iot_edge),
                authentication=_authentication(each),
            )
            for each in devices
        ],
        modules=[
            ScopeModule(
                device_id=each.device_id,
                module_id=each.module_id,
                generation_id=each.generation_id,
                authentication=_authentication(each),
            )
            for each in modules
        ],
        continuation_link=continuation_link,
    )


def _device(device: ScopeDevice) -> Member:
    scope = device.device_scope or ""
    # A leaf device is in the scope of the edge device above it.
    parents = device.parent_scopes or ([] if device.is_edge else [scope])
    return Member(
        device_id=device.device_id,
        generation_id=device.generation_id,
        enabled=device.status.lower() == _ENABLED,
        iot_edge=device.is_edge,
        scope=scope if device.is_edge else "",
        parent=parents[0] if parents else "",
        **_proof(device.authentication),
    )


def _proof(authentication: Authentication | None) -> dict[str, Any]:
    if authentication is None:
        return {}
    keys, prints = authentication.symmetric_key, authentication.x509_thumbprint
    pair = () if keys is None else (keys.primary_key, keys.secondary_key)
    known = () if prints is None else (prints.primary_thumbprint, prints.secondary_thumbprint)
    return {
        "kind": authentication.type,
        "keys": tuple(each for each in pair if each),
        "thumbprints": tuple(each for each in known if each),
    }


def _authentication(member: Member) -> Authentication:
    return Authentication(
        type=member.kind,
        symmetric_key=Keys(*member.keys) if member.keys else None,
        x509_thumbprint=Thumbprints(*member.thumbprints) if member.thumbprints else None,
    )
