"""Peers that do their worst to a running service, from a process of their own.

Run as a program with the name of an attack; the target comes as JSON on standard input. After
`seconds` it prints how often it tried what, and how that was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import ssl
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from amqp_attacks import amqp_duel, amqp_frames, amqp_links

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Publish, Subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from muster.wire.mqtt.packets import Packet

BROKEN: Final = (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
API: Final = "api-version=2021-06-01"


@dataclass(frozen=True)
class Target:
    """What an attacker knows. Some attackers are devices and services with valid credentials."""

    address: str
    https_port: int
    mqtt_port: int
    amqp_port: int
    dps: str
    hub: str
    ca_file: str
    id_scope: str
    seconds: float
    registration_id: str
    """The honest device's."""
    bad_token: str
    """For the above, signed with another key."""
    dps_authorization: str
    hub_authorization: str
    device_id: str
    """One that misbehaves, with a good key."""
    device_token: str


class Attack:
    """Connections to the target, and what came of them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.answers: Counter[str] = Counter()
        self._context = ssl.create_default_context(cafile=target.ca_file)
        self._end = 0.0

    def begin(self) -> None:
        self._end = asyncio.get_running_loop().time() + self.target.seconds

    @property
    def on(self) -> bool:
        return asyncio.get_running_loop().time() < self._end

    async def over(self) -> None:
        await asyncio.sleep(max(0.0, self._end - asyncio.get_running_loop().time()))

    async def together(self, work: Callable[[int], Awaitable[None]], count: int) -> None:
        """Run so many attackers; a broken connection is what they are there for."""

        async def one(number: int) -> None:
            while self.on:
                try:
                    await work(number)
                except BROKEN:
                    self.answers["closed"] += 1
                    await asyncio.sleep(0.01)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                await asyncio.gather(*(one(number) for number in range(count)))

    @contextlib.asynccontextmanager
    async def tls(self, port: int, host: str, own: str | None = None) -> AsyncIterator[Wire]:
        """Connect, from an address of one's own if wanted."""
        reader, writer = await asyncio.open_connection(
            self.target.address,
            port,
            ssl=self._context,
            server_hostname=host,
            limit=1 << 20,
            local_addr=None if own is None else (own, 0),
        )
        try:
            yield Wire(self, reader, writer)
        finally:
            writer.transport.abort()

    def https(self, host: str, own: str | None = None) -> AbstractAsyncContextManager[Wire]:
        return self.tls(self.target.https_port, host, own)

    def mqtt(self, host: str) -> AbstractAsyncContextManager[Wire]:
        return self.tls(self.target.mqtt_port, host)

    def amqp(self, host: str) -> AbstractAsyncContextManager[Wire]:
        return self.tls(self.target.amqp_port, host)


class Wire:
    """One connection."""

    def __init__(
        self, attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._attack = attack
        self.reader = reader
        self.writer = writer
        self._decoder = codec.Decoder()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def http(self, data: bytes) -> None:
        """Send a request and count the status of its answer."""
        await self.send(data)
        await self.http_answer()

    async def http_answer(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1].decode()
        self._attack.answers[status] += 1
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await self.reader.readexactly(int(length or 0))

    async def packets(self) -> list[Packet]:
        """Return what came, and count the statuses in it."""
        data = await self.reader.read(65_536)
        if not data:
            raise ConnectionResetError
        packets = list(self._decoder.feed(data))
        for packet in packets:
            if isinstance(packet, Connack):
                self._attack.answers[f"connack {packet.return_code}"] += 1
            elif isinstance(packet, Publish) and "/res/" in packet.topic:
                status = packet.topic.partition("/res/")[2].partition("/")[0]
                self._attack.answers[status] += 1
        return packets

    async def dps_login(self, registration_id: str, password: str = "nonsense") -> None:
        scope = self._attack.target.id_scope
        name = f"{scope}/registrations/{registration_id}/api-version=2019-03-31"
        connect = Connect(registration_id, name, password.encode())
        responses = Subscribe(1, [("$dps/registrations/res/#", 0)])
        await self.send(codec.encode(connect) + codec.encode(responses))
        await self.packets()

    async def hub_login(self, device_id: str, password: str) -> None:
        name = f"{self._attack.target.hub}/{device_id}/?api-version=2021-04-12"
        await self.send(codec.encode(Connect(device_id, name, password.encode())))
        await self.packets()


def request(  # noqa: PLR0917
    host: str,
    method: str,
    path: str,
    body: bytes = b"",
    authorization: str = "SharedAccessSignature sr=x&sig=x&se=1",
    content_type: str = "application/json",
) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("utf-8", "surrogateescape") + body


BODIES: Final[dict[str, bytes]] = {
    "empty": b"",
    "null": b"null",
    "list": b"[1]",
    "string": b'"x"',
    "cut": b'{"a":',
    "garbage": bytes(range(256)),
    "not utf-8": b'{"registrationId":"\xff\xfe"}',
    "nul": b'{"registrationId":"\\u0000","deviceId":"\\u0000"}',
    "half a surrogate pair": b'{"registrationId":"\\ud800","payload":"\\udfff",'
    b'"tags":{"a":"\\ud800"}}',
    "deep": b'{"payload":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"tags":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "huge number": b'{"payload":1e999999,"tags":{"a":' + b"9" * 5_000 + b"}}",
    "wrong types": b'{"registrationId":{},"attestation":[],"tags":7,"properties":"x","etag":[]}',
    "many names": b"{" + b",".join(b'"n%d":1' % number for number in range(9_000)) + b"}",
    "keys that are none": b'{"registrationId":"odd","deviceId":"odd","attestation":{"type":'
    b'"symmetricKey","symmetricKey":{"primaryKey":"\\u0000","secondaryKey":"x"}}}',
    "oversized": b'{"payload":"' + b"x" * 3_000_000 + b'"}',
}
ODD_IDS: Final = (
    *("..", ".", "%2e%2e", "%2F..%2F..%2Fetc%2Fpasswd", "a%2Fb", "%00", "a%00b", "%0d%0aX: y"),
    *("%", "%zz", "%ff%fe", "%ED%A0%80", "%u0041", "a b", "a%20b", "%F0%9F%9A%80", "%CC%81"),
    *("a%3Fb", "a%23b", "%7B%22a%22%3A1%7D", "%27%20OR%201%3D1--", "x" * 200, "x" * 20_000),
    *("$edgeAgent", "%E2%80%AE", "-", "", "A.b_c:d-", "%25%32%46"),
)
TYPES: Final = ("application/json", "text/plain", "application/xml; charset=\xff", "", "a" * 3_000)


def hostile_requests(target: Target) -> Iterable[tuple[str, bytes]]:
    """Every place that takes a body or an id, with every odd one."""
    scope = target.id_scope
    dps, hub = target.dps_authorization, target.hub_authorization
    places = [
        (target.dps, "PUT", f"/{scope}/registrations/{{}}/register", target.bad_token),
        (target.dps, "GET", f"/{scope}/registrations/{{}}/operations/{{}}", target.bad_token),
        (target.dps, "PUT", "/enrollments/{}", dps),
        (target.dps, "GET", "/enrollments/{}", dps),
        (target.dps, "PUT", "/enrollmentGroups/{}", dps),
        (target.dps, "POST", "/enrollments/query", dps),
        (target.dps, "POST", "/enrollments", dps),
        (target.dps, "GET", "/registrations/{}", dps),
        (target.dps, "POST", "/registrations/{}/query", dps),
        (target.dps, "GET", "/admin/v1/explanations/{}", dps),
        (target.dps, "POST", "/admin/v1/enrollments/import", dps),
        (target.hub, "PUT", "/devices/{}", hub),
        (target.hub, "GET", "/devices/{}", hub),
        (target.hub, "PATCH", "/twins/{}", hub),
        (target.hub, "PUT", "/twins/{}", hub),
        (target.hub, "PUT", "/devices/odd/modules/{}", hub),
        (target.hub, "POST", "/devices", hub),
    ]
    for host, method, path, authorization in places:
        link = "&" if "?" in path else "?"
        for number, body in enumerate(BODIES.values()):
            # Under one name, refusals would soon come slowly.
            plain = path.replace("{}", f"odd-{number}")
            yield host, request(host, method, f"{plain}{link}{API}", body, authorization)
        for odd in ODD_IDS:
            body = json.dumps({"registrationId": odd, "deviceId": odd}).encode()
            odd_path = path.replace("{}", odd)
            yield host, request(host, method, f"{odd_path}{link}{API}", body, authorization)
        for content_type in TYPES:
            yield (
                host,
                request(host, method, path + link + API, b"<a/>", authorization, content_type),
            )


async def odd_requests(attack: Attack) -> None:
    """Bodies, ids and content types that nobody should send, by services with good credentials."""
    everything = list(hostile_requests(attack.target))
    following = iter(everything)

    async def one() -> None:
        wire, left = None, contextlib.AsyncExitStack()
        for host, data in following:
            # The `Host` of a request decides, not the name the connection was made by; a
            # connection serves as many as the service lets it.
            try:
                if wire is None:
                    wire = await left.enter_async_context(attack.https(host))
                await wire.http(data)
            except BROKEN:
                # Whoever sends far too much may be cut off while sending.
                attack.answers["closed"] += 1
                await left.aclose()
                wire = None
        await left.aclose()

    # All of it once, however long it takes.
    await asyncio.gather(*(one() for _ in range(4)))
    assert attack.answers.total() == len(everything)


HEADS: Final = {
    "huge field": b"X-Bomb: " + b"x" * 200_000,
    "many fields": b"\r\n".join(b"X-%d: y" % number for number in range(20_000)),
    "folded": b"X: y\r\n z\r\n z",
    "no colon": b"nonsense",
    "nul": b"X: a\x00b",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6",
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "huge length": b"Content-Length: 99999999999999999999",
    "negative length": b"Content-Length: -1",
    "bad chunks": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    "endless chunk": b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + b"x" * 2_000_000,
    "upgrade": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99",
    "expect": b"Expect: nothing-good\r\nContent-Length: 1",
    "odd authorization": b"Authorization: SharedAccessSignature " + b"&" * 30_000,
    "odd token": b"Authorization: SharedAccessSignature sr=%ff&sig=%00&se=99999999999999999999",
}


async def headers(attack: Attack) -> None:
    """Header bombs and requests that are none."""
    target = attack.target
    lines = [
        b"PUT /enrollments/a?api-version=2021-10-01 HTTP/1.1\r\nHost: x",
        f"PUT /{target.id_scope}/registrations/a/register HTTP/1.1\r\nHost: {target.dps}".encode(),
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
        b"\x00\x01\x02",
        b"BREW / HTTP/9.9",
    ]
    cases = itertools.cycle([(line, head) for line in lines for head in HEADS.values()])

    async def one(_: int) -> None:
        line, head = next(cases)
        async with attack.https(target.dps) as wire:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await wire.http(line + b"\r\n" + head + b"\r\n\r\n")

    await attack.together(one, 8)


async def handshakes(attack: Attack) -> None:
    """A thousand connections that never finish a handshake, and some that stop right after it."""
    target = attack.target
    outgoing = ssl.MemoryBIO()
    tls = attack._context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=target.dps)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    writers = []
    for number in range(1_000):
        port = (target.https_port, target.mqtt_port)[number % 2]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(target.address, port)
            writer.write((b"", hello[:100], hello, b"\x16\x03\x01\xff\xff")[number // 2 % 4])
            writers.append(writer)
            attack.answers["opened"] += 1
    starts = {target.https_port: b"GET / HTTP/1.1\r\nX: ", target.mqtt_port: b"\x10\x20\x00\x04"}
    async with contextlib.AsyncExitStack() as stuck:
        for number in range(40):
            port = (target.https_port, target.mqtt_port)[number % 2]
            wire = await stuck.enter_async_context(attack.tls(port, target.dps))
            await wire.send(starts[port])
        await attack.over()
    for writer in writers:
        writer.transport.abort()


def bad_packets() -> list[bytes]:
    register = "$dps/registrations/PUT/iotdps-register/?$rid="
    publishes = [
        *((register + "1", body) for body in BODIES.values() if len(body) < 60_000),
        (register + "x" * 60_000, b"{}"),
        (register + "\U0001f680", b"{}"),
        ("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=%00%ff", b""),
        (register, bytes(200_000)),
        ("$dps/registrations/nothing", b""),
        ("$iothub/twin/GET/?$rid=1", b""),
    ]
    packets = [codec.encode(Publish(topic, body, 1, 1)) for topic, body in publishes]
    return [
        *packets,
        codec.encode(Subscribe(1, [(f"a/{number}/#", 1) for number in range(5_000)])),
        b"\x30\xff\xff\xff\x7f" + bytes(1_000_000),
        b"\x30\xff\xff\xff\xff\xff",
        b"\x32\x04\x00\x02\xff\xfe",
        b"\x34\x05\x00\x01a\x00\x01",
        b"\xff\x00",
        b"\x10\x00",
        bytes(range(256)) * 100,
    ]


async def packets(attack: Attack) -> None:
    """Packets that are too large, malformed, or say nonsense; ids full of tricks."""
    target = attack.target
    ids = [
        f"{target.registration_id}-not",
        "..",
        "a\U0001f680",
        "x" * 10_000,
        "%00",
        "a;b|c",
        "\u202e",
    ]
    cases = itertools.cycle([(each, data) for data in bad_packets() for each in ids])

    async def one(number: int) -> None:
        registration_id, data = next(cases)
        async with attack.mqtt(target.dps) as wire:
            if number % 4 == 0:
                # Before any CONNECT.
                await wire.send(data)
                await wire.packets()
                return
            await wire.dps_login(registration_id, target.bad_token)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await wire.send(data)
                    while True:
                        await wire.packets()

    await attack.together(one, 8)


async def loops(attack: Attack) -> None:
    """Clients that take each other over, and two that ask in vain as fast as they can."""
    target = attack.target

    async def duel(_: int) -> None:
        async with attack.mqtt(target.hub) as wire:
            await wire.hub_login(target.device_id, target.device_token)
            while True:
                await wire.packets()

    async def flood(number: int) -> None:
        device = f"{target.device_id}/loop{number}"
        topic = "$iothub/twin/PATCH/properties/reported/?$rid=1"
        ask = codec.encode(Publish(topic, b'{"a":', 0, None)) * 50
        async with attack.mqtt(target.hub) as wire:
            await wire.hub_login(device, target.device_token)
            while attack.on:
                await wire.send(ask)
                attack.answers["asked"] += 50
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await wire.packets()

    await asyncio.gather(attack.together(duel, 3), attack.together(flood, 2))


async def one_id(attack: Attack) -> None:
    """Refused over and over, in the name of the honest device."""
    target = attack.target
    own = target.registration_id
    path = f"/{target.id_scope}/registrations/{own}/register?{API}"
    refused = request(target.dps, "PUT", path, b"{}", target.bad_token)
    register = Publish("$dps/registrations/PUT/iotdps-register/?$rid=1", b"{}", 0, None)

    async def over_http(_: int) -> None:
        async with attack.https(target.dps) as wire:
            await wire.send(refused * 50)
            attack.answers["asked"] += 50
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        await wire.http_answer()

    async def over_mqtt(number: int) -> None:
        async with attack.mqtt(target.dps) as wire:
            await wire.dps_login(f"{own}-{number}", target.bad_token)
            await wire.send(codec.encode(register) * 30)
            attack.answers["asked"] += 30
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        await wire.packets()

    async def at_the_hub(_: int) -> None:
        async with attack.mqtt(target.hub) as wire:
            attack.answers["asked"] += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await wire.hub_login(own, target.bad_token)

    await asyncio.gather(
        attack.together(over_http, 4),
        attack.together(over_mqtt, 4),
        attack.together(at_the_hub, 4),
    )


async def many_ids(attack: Attack) -> None:
    """Refused under another name each time, as fast as the service answers."""
    target = attack.target
    numbers = itertools.count()

    async def one(_: int) -> None:
        batch = [f"nobody-{next(numbers)}" for _ in range(100)]
        # One address would soon be answered slowly; here are as many as anybody wants.
        first = next(numbers)
        async with attack.https(
            target.dps, f"127.200.{first // 250 % 250}.{first % 250 + 1}"
        ) as wire:
            attack.answers["asked"] += len(batch)
            await wire.send(b"".join(map(refused, batch)))
            for _ in batch:
                await wire.http_answer()

    def refused(registration_id: str) -> bytes:
        path = f"/{target.id_scope}/registrations/{registration_id}/register?{API}"
        return request(target.dps, "PUT", path, b"{}", target.bad_token)

    await attack.together(one, 6)


ATTACKS: Final = {
    each.__name__: each
    for each in (
        odd_requests,
        headers,
        handshakes,
        packets,
        loops,
        one_id,
        many_ids,
        amqp_frames,
        amqp_links,
        amqp_duel,
    )
}


async def main(name: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, most), most))
    attack = Attack(Target(**json.loads(sys.stdin.read())))
    attack.begin()
    await ATTACKS[name](attack)
    print(json.dumps(attack.answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
