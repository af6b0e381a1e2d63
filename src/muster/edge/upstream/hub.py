"""Everything this device says to its hub, put together: whom to trust and what time it is, once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final
from weakref import WeakSet

from muster.edge.upstream import trust
from muster.edge.upstream.base import Link
from muster.edge.upstream.device_scope import DeviceScope
from muster.edge.upstream.http import Https
from muster.edge.upstream.login import Gateway, Login, transports
from muster.edge.upstream.modules import HubModules
from muster.edge.upstream.modules_on_behalf import ModulesOnBehalf
from muster.edge.upstream.session import ALL, MqttSession
from muster.edge.upstream.turn import Turn
from muster.net.dial import Dialler
from muster.net.stream import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from muster.edge.identity import DeviceIdentity, ModuleIdentity
    from muster.edge.upstream.arrival import Arrival
    from muster.edge.upstream.base import Feature, Owner
    from muster.edge.upstream.hub_time import HubTime
    from muster.edge.upstream.tuning import Tuning
    from muster.ids import Randomness

LIMITS: Final = Limits(
    handshake_s=30.0, first_byte_s=60.0, write_stall_s=60.0, write_buffer=4 * 1024 * 1024
)
"""Of a connection. A session writes no more than its window, a twin and some answers at a time."""
_GOODBYE_S: Final = 2.0
_FOLLOW_S: Final = 2.0
"""Over which sessions follow one that has reached the hub."""


@final
class Hub:
    """The hub of this device, or the parent in its place. Belongs to the running event loop.

    Args:
        device: who this device is.
        trust_bundle: further CAs to trust.
        parent_hostname: of the edge device above; `None` for none.
        upstream_protocol: see `login.transports`.
        time: for tokens.
        randomness: spreads attempts.
        arrival: before which nothing is said; `None` where nothing is to be waited for.
        environment: says the proxy, see `Proxy.of`.
        gateway: where it is, where that is not said by the names.

    Raises:
        OSError: a certificate or key cannot be read (`ssl.SSLError`: or used).
        ValueError: what the environment says is no proxy.
    """

    def __init__(
        self,
        device: DeviceIdentity,
        *,
        trust_bundle: Path | None,
        parent_hostname: str | None,
        upstream_protocol: str | None,
        time: HubTime,
        randomness: Randomness,
        environment: Mapping[str, str],
        gateway: Gateway | None = None,
        arrival: Arrival | None = None,
    ) -> None:
        self._device = device
        self._gateway = gateway or Gateway.of(device.hub_host, parent_hostname, environment)
        self._ways = transports(upstream_protocol)
        self._sessions: WeakSet[MqttSession] = WeakSet()
        self._time = time
        self._randomness = randomness
        self._arrival = arrival
        self._turn = Turn(self._connected)
        self._login = Login(hub_host=device.hub_host, device_id=device.device_id, key=device.key)
        # One for all, since the system's certificates take a megabyte each time.
        trusted = trust.context(trust_bundle)
        self._dialler = Dialler(trusted, LIMITS)
        self._https = self._device_https = Https(self._gateway, trusted, time, arrival)
        if device.certificate is not None:
            # Modules prove themselves by their keys, whatever the device has.
            own = trust.context(trust_bundle, device.certificate, device.private_key)
            self._device_https = Https(self._gateway, own, time, arrival)

    def session(
        self,
        login: Login,
        owner: Owner,
        *,
        features: frozenset[Feature] = ALL,
        tuning: Tuning | None = None,
    ) -> MqttSession:
        """Return a session of an identity; see `MqttSession`. It is not open yet."""
        made = MqttSession(
            login,
            self._gateway,
            owner,
            dialler=self._dialler,
            time=self._time,
            randomness=self._randomness,
            arrival=self._arrival,
            ways=self._ways,
            features=features,
            tuning=tuning,
            reached=self._reached,
            company=self._company,
            turn=self._turn,
        )
        self._sessions.add(made)
        return made

    def module_session(self, module: ModuleIdentity, owner: Owner) -> MqttSession:
        """Return a session of a module of this device."""
        return self.session(Login.of_module(self._device, module), owner)

    def modules(self) -> HubModules:
        """Return the module identities of this device, as the hub has them."""
        return HubModules(self._device_https, self._login)

    def scope(self, edge_hub: ModuleIdentity) -> DeviceScope:
        """Return who is in this device's scope."""
        return DeviceScope(self._https, Login.of_module(self._device, edge_hub))

    def registry(self, edge_hub: ModuleIdentity) -> ModulesOnBehalf:
        """Return the module identities of devices below this one, as the hub has them."""
        return ModulesOnBehalf(self._https, Login.of_module(self._device, edge_hub))

    def _reached(self, first: MqttSession) -> None:
        """Have sessions that found nobody try again: whoever one has reached, others will, too."""
        loop = asyncio.get_running_loop()
        for session in self._sessions:
            if session is not first and session.link is Link.UNREACHABLE:
                chance = int.from_bytes(self._randomness.token_bytes(4)) / 2**32
                loop.call_later(chance * _FOLLOW_S, session.hurry)

    def _connected(self) -> bool:
        return any(each.link is Link.CONNECTED for each in self._sessions)

    def _company(self) -> int:
        """Count the sessions that look for the hub, the one that asks included."""
        return sum(each.looks for each in self._sessions)

    async def close(self) -> None:
        """Let go of connections; sessions have been closed before."""
        await self._device_https.close()
        await self._https.close()
        await self._dialler.close(_GOODBYE_S)
