"""AMQP clients that do their worst; see `attacks`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final

from muster.wire.amqp import bodies
from muster.wire.amqp.frames import AMQP_HEADER, SASL_FRAME, SASL_HEADER, FrameBuffer, frame
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
    Transfer,
)
from support.amqp import put_token

if TYPE_CHECKING:
    from attacks import Attack, Wire

    from muster.wire.amqp.performatives import Performative

LINKS: Final = 5_000


def said(*performatives: Performative, payload: bytes = b"") -> bytes:
    return b"".join(frame(0, bodies.encode(one), payload) for one in performatives)


def opened(host: str) -> bytes:
    return AMQP_HEADER + said(Open("attacker", host), Begin(0, 2_048, 2_048))


def attach(handle: int, address: str, *, sends: bool) -> Attach:
    return Attach(
        f"link-{handle}",
        handle,
        role=not sends,
        source=Source(None if sends else address),
        target=Target(address if sends else None),
        initial_delivery_count=0 if sends else None,
    )


class Ears:
    """Reads what one connection is told, and counts what was refused."""

    def __init__(self, attack: Attack, wire: Wire) -> None:
        self._attack = attack
        self._wire = wire
        self._buffer = FrameBuffer()
        self._begun = False

    async def listen(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self._wire.reader.read(65_536):
                    self._take(data)
                raise ConnectionResetError

    def _take(self, data: bytes) -> None:
        self._buffer.feed(data)
        if not self._begun:
            self._begun = self._buffer.header() is not None
        while self._begun and (one := self._buffer.next(1 << 24)) is not None:
            if one[2]:
                performative, _ = bodies.read(one[2])
                if isinstance(performative, Detach | Close):
                    self._attack.answers[type(performative).__name__.lower()] += 1


def bad_beginnings(host: str) -> list[bytes]:
    start = opened(host)
    sasl = frame(0, bodies.encode(SaslInit("PLAIN", b"\0a\0b")), frame_type=SASL_FRAME)
    return [
        b"",
        b"AMQP",
        b"AMQP\x02\x01\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4_096),
        SASL_HEADER,
        SASL_HEADER + os.urandom(300),
        SASL_HEADER + sasl + SASL_HEADER + sasl,
        SASL_HEADER + frame(0, bodies.encode(SaslInit("KERBEROS")), frame_type=SASL_FRAME),
        AMQP_HEADER,
        AMQP_HEADER + b"\xff\xff\xff\xff\x02\x00\x00\x00",
        AMQP_HEADER + b"\x00\x00\x00\x00\x02\x00\x00\x00",
        AMQP_HEADER + said(Begin(0, 1, 1)),
        AMQP_HEADER + said(Open("x" * 15_000, host)),
        start + b"\x00\x01\x00\x00\x02\x00\x00\x00" + b"\x00\x53\xff\xd1" + b"\xff" * 65_524,
        start + frame(0, b"\x00\x53\x12" + b"\xd0\x00\x00\x00\x08" + b"\xc0" * 4_000),
        start + said(attach(0, "$cbs", sends=True)) + said(Transfer(0, 0, b"t"), payload=b"x") * 99,
        start + said(Flow(0, 0, 0, 0, 77, link_credit=0xFFFF_FFFF)),
        start + said(*(Begin(0, 1, 1) for _ in range(3))),
    ]


async def amqp_frames(attack: Attack) -> None:
    """What is no AMQP, or breaks its rules, or begins and never goes on."""
    cases = itertools.cycle(bad_beginnings(attack.target.hub))

    async def one(_: int) -> None:
        async with attack.amqp(attack.target.hub) as wire:
            attack.answers["begun"] += 1
            await wire.send(next(cases))
            await Ears(attack, wire).listen(0.3)

    await attack.together(one, 8)


async def amqp_links(attack: Attack) -> None:
    """Thousands of links nobody may have, and tokens that are none, as fast as they are taken."""
    target = attack.target

    async def links(number: int) -> None:
        attaches = [
            attach(each, f"/devices/{target.registration_id}-{each}/twin", sends=each % 2 == 0)
            for each in range(LINKS)
        ]
        async with attack.amqp(target.hub) as wire:
            attack.answers["attached"] += LINKS
            await wire.send(opened(target.hub) + said(*attaches[number:]))
            await Ears(attack, wire).listen(2.0)

    async def tokens(_: int) -> None:
        async with attack.amqp(target.hub) as wire:
            ears = Ears(attack, wire)
            cbs = (attach(0, "$cbs", sends=True), attach(1, "$cbs", sends=False))
            await wire.send(opened(target.hub) + said(*cbs))
            await ears.listen(0.05)
            for number in range(100):
                # Without a look at credit or answers.
                payload = put_token(target.bad_token, number)
                await wire.send(said(Transfer(0, number, b"t", 0), payload=payload))
                attack.answers["put"] += 1
            await ears.listen(0.3)

    await asyncio.gather(attack.together(links, 3), attack.together(tokens, 3))


async def amqp_duel(attack: Attack) -> None:
    """Clients that take each other over, and ask for their twin in vain."""
    target = attack.target
    address = f"/devices/{target.device_id}/twin"

    async def one(_: int) -> None:
        async with attack.amqp(target.hub) as wire:
            ears = Ears(attack, wire)
            cbs = (attach(0, "$cbs", sends=True), attach(1, "$cbs", sends=False))
            await wire.send(opened(target.hub) + said(*cbs))
            await ears.listen(0.05)
            token = put_token(target.device_token, "t")
            ask = said(Transfer(2, 1, b"t", 0, settled=True), payload=b"\0Ss\xc0\1\0\0Su\xa0\1{")
            twin = said(attach(2, address, sends=True), attach(3, address, sends=False))
            await wire.send(said(Transfer(0, 0, b"t", 0), payload=token) + twin)
            await ears.listen(0.2)
            attack.answers["asked"] += 200
            await wire.send(ask * 200)
            await ears.listen(2.0)

    await attack.together(one, 3)
