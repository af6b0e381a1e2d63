"""Direct methods: a service, a job or another module calls a device or module and gets its answer.

Which node has the client is the bus's affair; what happens there is in `muster.hub.method_calls`.
Sources: hub-service.md 1.7; hub-device.md 4, 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

from muster.errors import ForbiddenError, NotFoundError, UnavailableError
from muster.hub.authentication import RefusedError
from muster.hub.method_calls import (
    ANSWERED,
    CONNECTION_LOST,
    EARLY_S,
    INVOKE_METHOD,
    NO_ANSWER,
    TOO_MANY_CALLS,
    MethodInvocation,
    MethodReply,
)
from muster.model.method import MAX_PAYLOAD, NO_PAYLOAD, MethodResult, check, is_json

if TYPE_CHECKING:
    from muster.bus.base import Bus
    from muster.errors import MusterError
    from muster.hub.connections import Connections
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.model.identity import IdentityRef
    from muster.model.method import MethodCall


class NotOnlineError(UnavailableError):
    """The client is not connected, or has not subscribed to the method.

    Args:
        subject: the device or module.
        waited_s: the connect time-out, in seconds.
    """

    default_code = "device-not-online"

    def __init__(self, subject: str, waited_s: int) -> None:
        super().__init__("Timed out waiting for device to connect.", subject=subject)
        self.waited_s = waited_s


@final
class Methods:
    """Calls direct methods.

    Args:
        identities: say which devices exist.
        modules: the same of modules.
        connections: know who is connected to this node.
        bus: reaches the node that has the client.
    """

    __slots__ = ("_bus", "_connections", "_identities", "_modules")

    def __init__(
        self, identities: Identities, modules: Modules, connections: Connections, bus: Bus
    ) -> None:
        self._identities = identities
        self._modules = modules
        self._connections = connections
        self._bus = bus

    async def invoke(self, ref: IdentityRef, call: MethodCall) -> MethodResult:
        """Call a method and return the client's answer.

        Ends a little before the sum of both time-outs. With a connect time-out of 0 it fails at
        once when the client is not there.

        Args:
            ref: the device or module.
            call: what to call; see `muster.model.method.check` for its limits.

        Raises:
            InvalidArgumentError: a limit is broken; `code` says which.
            TooLargeError: the payload; code `payload-too-large`.
            NotFoundError: codes `device-not-found`, `module-not-found`, and `connection-lost`: the
                client went away before it answered.
            NotOnlineError: it was not there within the connect time-out.
            UnavailableError: codes `method-timed-out`: it did not answer in time, and
                `bad-method-answer`: what it answered is no JSON, or too large.
            ForbiddenError: it has too many calls before it; code `too-many-calls`.
        """
        check(call)
        if self._connections.get(ref) is None:
            await self._check_registered(ref)
        return await self.call(ref, call)

    async def call(self, ref: IdentityRef, call: MethodCall) -> MethodResult:
        """Call a method that was checked of an identity that is known to exist.

        Arguments, result and errors as of `invoke`; an identity that is gone is not online.
        """
        connect_s = call.connect_timeout_s
        invocation = MethodInvocation(
            ref.hub,
            ref.device_id,
            ref.module_id,
            call.name,
            call.payload,
            call.response_timeout_s - EARLY_S,
            connect_s,
        )
        answer = await self._bus.request(
            INVOKE_METHOD, _encode(invocation), call.response_timeout_s + connect_s
        )
        if answer is None:
            raise NotOnlineError(ref.text, connect_s)
        reply = _decode(answer)
        if reply.outcome != ANSWERED:
            raise _failure(reply.outcome, ref)
        payload = reply.payload or NO_PAYLOAD
        if len(payload) > MAX_PAYLOAD or not is_json(payload):
            raise UnavailableError(
                "The device answered with a payload that is not JSON of at most "
                f"{MAX_PAYLOAD} bytes.",
                code="bad-method-answer",
                subject=ref.text,
            )
        return MethodResult(reply.status, msgspec.Raw(payload))

    async def check_caller(self, caller: IdentityRef, ref: IdentityRef) -> None:
        """Refuse a module that may not call a device or module.

        A module may call its own device, the other modules on it, and what has that edge device
        as its parent: whom it reaches through its edge hub (hub-device.md 4).

        Raises:
            RefusedError: check `not-in-scope`.
        """
        if caller.device_id == ref.device_id:
            return
        own = await self._identities.find(caller.hub, caller.device_id)
        other = await self._identities.find(ref.hub, ref.device_id)
        if own is None or other is None or not own.iot_edge or other.parent_scope != own.scope:
            raise RefusedError(
                "The device called is neither the module's own nor a child of it.",
                "not-in-scope",
                caller=caller.text,
                device_id=ref.device_id,
            )

    async def _check_registered(self, ref: IdentityRef) -> None:
        await self._identities.get(ref.hub, ref.device_id)
        if ref.module_id:
            await self._modules.get(ref)


def _failure(outcome: str, ref: IdentityRef) -> MusterError:
    if outcome == CONNECTION_LOST:
        return NotFoundError(
            "Device unavailable: its connection ended before it answered.",
            code=CONNECTION_LOST,
            subject=ref.text,
        )
    if outcome == TOO_MANY_CALLS:
        return ForbiddenError(
            "The device has too many calls before it that it has not answered.",
            code=TOO_MANY_CALLS,
            subject=ref.text,
        )
    return UnavailableError(
        "Timed out waiting for the response from device.", code=NO_ANSWER, subject=ref.text
    )


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(MethodReply).decode
