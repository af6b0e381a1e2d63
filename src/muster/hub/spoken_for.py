"""Who is spoken for by which edge devices, so that an end of the chain ends the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

if TYPE_CHECKING:
    from muster.model.auth_chain import AuthChain
    from muster.model.identity import IdentityRef


class Held(Protocol):
    """A session, or a connect that may become one."""

    @property
    def ref(self) -> IdentityRef:
        """Whose it is."""

    @property
    def chain(self) -> AuthChain | None:
        """Over which an edge hub speaks for it."""


_Held = TypeVar("_Held", bound=Held)


@final
class SpokenFor(Generic[_Held]):
    """Those with a chain, by each device of it."""

    def __init__(self) -> None:
        self._by_device: dict[tuple[int, str], set[_Held]] = {}

    def add(self, held: _Held) -> None:
        """Take one; nothing when it has no chain."""
        if held.chain is not None:
            for device_id in held.chain.devices:
                self._by_device.setdefault((held.ref.hub, device_id), set()).add(held)

    def discard(self, held: _Held) -> None:
        """Let one go."""
        if held.chain is None:
            return
        for device_id in held.chain.devices:
            key = (held.ref.hub, device_id)
            found = self._by_device.get(key)
            if found is not None:
                found.discard(held)
                if not found:
                    del self._by_device[key]

    def through(self, hub: int, device_id: str) -> list[_Held]:
        """Return those for whom an edge device speaks, or hands on what another one speaks."""
        return [
            held
            for held in self._by_device.get((hub, device_id), ())
            if held.chain is not None and device_id in held.chain.speakers
        ]

    def under(self, hub: int, device_id: str) -> list[_Held]:
        """Return those whose chain goes from a device to its parent."""
        return [
            held
            for held in self._by_device.get((hub, device_id), ())
            if held.chain is not None and device_id != held.chain.actor
        ]
