"""Somebody else at the address of a hub, while the real one is away.

A mock: the real hub never breaks a protocol and never shows a wrong certificate. It speaks TLS on
the HTTPS and MQTT ports of a place, and to each connection says the next thing it has.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from muster.wire.mqtt import codec
from muster.wire.mqtt.connection import ServerConnection
from muster.wire.mqtt.packets import Connack, Connect, Packet, Puback, Publish, Suback, Subscribe

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from support.run import Place

Saying: TypeAlias = Callable[[ssl.SSLSocket, bytes], None]
"""What is said in one connection to a client's first bytes; the connection ends afterwards."""

ENDLESS = 64 << 20
"""Bytes of what has no end."""
_PIECE = 64 * 1024
_PATIENCE_S = 2.0


class Voice(NamedTuple):
    """What is on a port.

    Attributes:
        chain: PEM file of the certificate.
        key: PEM file of its private key.
        sayings: what is said, one after the other and again from the start.
    """

    chain: Path
    key: Path
    sayings: Sequence[Saying] = ()


class StrangeHub:
    """Use it as a context manager, while nobody else listens there.

    Args:
        place: where.
        https: on the HTTPS port.
        mqtt: on the MQTT port.

    Attributes:
        heard: by port, how many clients took the certificate and said something.
    """

    def __init__(self, place: Place, https: Voice, mqtt: Voice) -> None:
        self._place = place
        self._voices = {place.https_port: https, place.mqtt_port: mqtt}
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._count = threading.Lock()
        self.heard = dict.fromkeys(self._voices, 0)

    def __enter__(self) -> Self:
        for port, voice in self._voices.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(voice.chain, voice.key)
            listener = socket.create_server((self._place.address, port))
            self._listeners.append(listener)
            self._begin(self._listen, listener, context, itertools.cycle(voice.sayings or [_end]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()

    def _begin(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(
        self, listener: socket.socket, context: ssl.SSLContext, sayings: Iterator[Saying]
    ) -> None:
        port = listener.getsockname()[1]
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                self._begin(self._speak, connection, context, port, next(sayings))

    def _speak(
        self, connection: socket.socket, context: ssl.SSLContext, port: int, say: Saying
    ) -> None:
        connection.settimeout(_PATIENCE_S)
        with connection, contextlib.suppress(OSError):
            if say is no_tls:
                connection.sendall(random.randbytes(1000))
                return
            with context.wrap_socket(connection, server_side=True) as tls:
                # With TLS 1.3 a client's refusal comes in place of its first bytes.
                first = tls.recv(_PIECE)
                with self._count:
                    self.heard[port] += 1
                say(tls, first)


def _end(_tls: ssl.SSLSocket, _first: bytes) -> None:
    """Say nothing, and end."""


def no_tls(_tls: ssl.SSLSocket, _first: bytes) -> None:
    """Stand for bytes that are no TLS."""
    raise AssertionError("nobody comes so far")


def bytes_of(data: bytes) -> Saying:
    """Say some bytes."""
    return lambda tls, _: tls.sendall(data)


def noise(tls: ssl.SSLSocket, _first: bytes) -> None:
    """Say what means nothing."""
    tls.sendall(random.randbytes(5000))


def silence(tls: ssl.SSLSocket, _first: bytes) -> None:
    """Say nothing for a while."""
    tls.recv(1)


def endless(head: bytes, piece: bytes) -> Saying:
    """Say some bytes, and then others again and again, 64 MiB at most."""

    def say(tls: ssl.SSLSocket, _first: bytes) -> None:
        tls.sendall(head)
        block = piece * (_PIECE // len(piece))
        for _ in range(ENDLESS // len(block)):
            tls.sendall(block)

    return say


def liar(twin: bytes, *said: Packet) -> Saying:
    """Let a client in, and answer with what is none; acknowledge no telemetry.

    Args:
        twin: to whoever asks for one.
        said: to whoever has subscribed.
    """

    def say(tls: ssl.SSLSocket, first: bytes) -> None:
        connection, data = ServerConnection(), first
        while data:
            for packet in connection.receive(data):
                for answer in _answers(packet, twin, said):
                    tls.sendall(codec.encode(answer))
            data = tls.recv(_PIECE)

    return say


def _answers(packet: Packet, twin: bytes, said: Sequence[Packet]) -> Iterator[Packet]:
    if isinstance(packet, Connect):
        yield Connack(0)
    elif isinstance(packet, Subscribe):
        yield Suback(packet.packet_id, [qos for _, qos in packet.filters])
        yield from said
    elif isinstance(packet, Publish) and packet.topic.startswith("$iothub/twin/GET/"):
        if packet.packet_id is not None:
            yield Puback(packet.packet_id)
        yield Publish(f"$iothub/twin/res/200/{packet.topic.rpartition('/')[2]}", twin)
