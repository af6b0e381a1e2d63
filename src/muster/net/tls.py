"""TLS on the raw TCP transport, lean enough for a hundred thousand idle devices.

`TlsStream` is the accepting end; the dialling end, which differs in its handshake only, is in
`dial.py`.

asyncio's own TLS keeps a 256 KiB buffer per connection and uvloop's costs twice the CPU per
message (measured), so the records are pumped here: the raw transport's bytes go into a memory
buffer, OpenSSL takes them out, and back.

Both memory buffers are shared by all connections of a listener. That is sound because OpenSSL takes
everything out of the incoming one before it asks for more, what it left is put aside
(`TlsStream._held`) before any other code runs, and the outgoing one is emptied after each call.
It saves 6 KiB per connection, and time in each handshake.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from muster.net import client_certificates
from muster.net.stream import CONNECTING, OPEN, PEER_CERTIFICATE, Limits, Shared, Stream
from muster.net.summary import Summary

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

_log = structlog.get_logger(__name__)

_RECORD: Final = 16_384
"""The most plaintext one record carries (RFC 8446 section 5.1)."""

_FLUSH_AT: Final = 64 * 1024
"""Pending plaintext that is encrypted without waiting for more."""

_SLICE: Final = 256 * 1024
"""The most plaintext encrypted in one go, so that the shared buffer stays small."""


def server_context(
    certificate: Path,
    key: Path,
    application_protocols: Sequence[str] = (),
    *,
    ask_clients: bool = False,
) -> ssl.SSLContext:
    """Make the context of a listener.

    TLS 1.2 and 1.3 are offered: the Python device SDK speaks 1.2 only (hub-device.md 0.10).

    Args:
        certificate: PEM file with the server certificate and its chain. ECDSA P-256 costs a third
            less server time per handshake than RSA.
        key: PEM file with the private key.
        application_protocols: names for ALPN, for example `["http/1.1"]`. Clients that offer only
            others are served all the same.
        ask_clients: whether clients are asked for a certificate; see `client_certificates`.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: the files hold no certificate with its key.
        client_certificates.NoAccessError: clients cannot be asked here.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # A device opens one connection at a time; a second ticket would be made for nothing.
    context.num_tickets = 1
    context.load_cert_chain(certificate, key)
    if application_protocols:
        context.set_alpn_protocols(list(application_protocols))
    if ask_clients:
        client_certificates.request(context)
    return context


class Handshakes:
    """The handshakes that are not finished, and who gives way when they are too many.

    A peer that connects and then does nothing must not keep others out. So at a cap the handshake
    that waits longest for its peer is dropped, unless it has waited for less than the grace period:
    in a storm of honest devices it is we who are late, and dropping them would only make them come
    again. Then there is a `crowd`, and the listener stops accepting until it has dissolved.
    """

    __slots__ = ("_by_address", "_limits", "_waiting")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Ordered by the time since when they wait for their peer.
        self._waiting: dict[TlsStream, None] = {}
        self._by_address: dict[str, dict[TlsStream, None]] = {}

    def __len__(self) -> int:
        """Count the unfinished handshakes."""
        return len(self._waiting)

    @property
    def crowd(self) -> bool:
        """Whether there are more than should be and none could be made to give way."""
        return len(self._waiting) > self._limits.handshakes

    @property
    def roomy(self) -> bool:
        """Whether accepting may start again: a quarter is free."""
        return len(self._waiting) <= self._limits.handshakes * 3 // 4

    def enter(self, stream: TlsStream, now: float) -> None:
        """Add a new handshake, at the cost of one that waits too long if there are many."""
        same = self._by_address.setdefault(stream.address[0], {})
        if len(same) >= self._limits.handshakes_per_address:
            self._give_way(same, now, "too many handshakes from one address")
        if len(self._waiting) >= self._limits.handshakes:
            self._give_way(self._waiting, now, "too many handshakes")
        stream.since = now
        self._waiting[stream] = None
        # Looked up again: making way may have removed the address's last one.
        self._by_address.setdefault(stream.address[0], same)[stream] = None

    def answered(self, stream: TlsStream, now: float) -> None:
        """Note that it is the peer's turn from now on."""
        if stream in self._waiting:
            stream.since = now
            del self._waiting[stream]
            self._waiting[stream] = None

    def leave(self, stream: TlsStream) -> None:
        """Note that a handshake is finished, well or not. Harmless when it is not there."""
        if stream not in self._waiting:
            return
        del self._waiting[stream]
        same = self._by_address[stream.address[0]]
        del same[stream]
        if not same:
            del self._by_address[stream.address[0]]

    def drop_stalled(self, now: float) -> None:
        """Make room while accepting is paused."""
        while not self.roomy and self._give_way(self._waiting, now, "too many handshakes"):
            pass

    def _give_way(self, streams: dict[TlsStream, None], now: float, reason: str) -> bool:
        oldest = next(iter(streams), None)
        if oldest is None or now - oldest.since < self._limits.handshake_grace_s:
            return False
        oldest.fail(reason)
        return True


class TlsShared(Shared):
    """What the TLS streams of one listener share.

    Args:
        protocol_factory: as in `Shared`.
        limits: as in `Shared`.
        context: the TLS context; may be replaced, for new connections.

    Attributes:
        pause_accepting: called when there are too many unfinished handshakes.
        reading: whether plaintext is being delivered right now.
    """

    __slots__ = (
        "_dirty",
        "_scheduled",
        "context",
        "failures",
        "handshakes",
        "incoming",
        "outgoing",
        "pause_accepting",
        "reading",
    )

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        limits: Limits,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(protocol_factory, limits)
        self.context = context
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.handshakes = Handshakes(limits)
        self.failures = Summary("tls handshake failed")
        self.pause_accepting: Callable[[], None] = _nothing
        self.reading = False
        self._dirty: list[TlsStream] = []
        self._scheduled = False

    def flush_soon(self, stream: TlsStream) -> None:
        """Have a stream encrypt what it has pending: after this read, or in the next turn."""
        self._dirty.append(stream)
        if not (self.reading or self._scheduled):
            self._scheduled = True
            self.loop.call_soon(self._flush_scheduled)

    def flush(self) -> None:
        """Have every stream with pending plaintext encrypt and send it."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for stream in dirty:
                stream.flush()

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self.flush()


class TlsStream(Stream):
    """A TLS connection. Writes of one turn leave as one record and one system call."""

    __slots__ = (
        "_gone",
        "_held",
        "_pending",
        "_pending_size",
        "_started",
        "_tls",
        "since",
    )

    _shared: TlsShared

    def __init__(self, shared: TlsShared) -> None:
        super().__init__(shared)
        # Made with the first bytes: whoever connects and says nothing costs no TLS state.
        self._tls: ssl.SSLObject = cast("ssl.SSLObject", None)
        self._started = False
        self._gone = False
        self._held = b""
        self._pending: list[bytes] | None = None
        self._pending_size = 0
        self.since = 0.0

    # The protocol of the raw transport.

    def data_received(self, data: bytes) -> None:
        """Decrypt what came in and hand it on."""
        if self._phase != OPEN or self._eof:
            self._receive_early_or_late(data)
            return
        shared = self._shared
        incoming = shared.incoming
        if self._held:
            data, self._held = self._held + data, b""
        incoming.write(data)
        size = len(data) if len(data) < _RECORD else _RECORD  # noqa: FURB136 - `min` is slow
        try:
            plain = self._tls.read(size)
            ended = not plain
            # Asking is cheaper than the exception that reading from an empty buffer raises. A
            # plaintext as long as asked for may be the first part of an earlier, longer record.
            if plain and (incoming.pending or len(plain) >= size):
                plain, ended = self._read_on(plain)
        except ssl.SSLWantReadError:
            plain, ended = b"", False
        except ssl.SSLError as error:
            self._fail_open(error)
            return
        if shared.outgoing.pending:
            self._emit()
        if incoming.pending:
            left = incoming.read()
            self._held = b"" if ended else left
        self._eof = ended
        if plain:
            shared.reading = True
            self._deliver(plain)
            shared.reading = False
            shared.flush()
        if ended:
            self._peer_finished()

    def eof_received(self) -> bool:
        """Note that the peer sends no more."""
        if self._phase == CONNECTING:
            # Not worth a line when nothing was sent: load balancers and port scans do it.
            if self._started:
                self._shared.failures.add("connection closed by peer", self.remote)
            self.abort()
            return True
        self._gone = True
        super().eof_received()
        # Still open if the application protocol has something to say to a half-closed peer.
        self._gone = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone for good."""
        self._shared.handshakes.leave(self)
        super().connection_lost(exc)
        self._pending = None
        self._tls = cast("ssl.SSLObject", None)

    # The transport of the application protocol.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, together with what else is written in this turn."""
        if self._phase != OPEN:
            return
        size = len(data)
        if not size:
            return
        if type(data) is not bytes:
            data = bytes(data)
        if self._pending is None:
            self._pending = [data]
            self._pending_size = size
            self._shared.flush_soon(self)
        else:
            self._pending.append(data)
            self._pending_size += size
        if self._pending_size >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Encrypt and send what is pending."""
        pending = self._pending
        if pending is None:
            return
        self._pending = None
        if self._phase != OPEN:
            return
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        try:
            self._encrypt(data)
        except ssl.SSLError as error:
            self._fail_open(error)
            return
        if self._write_paused:
            self._check_buffer()

    def abort(self) -> None:
        """Close at once and drop what is pending."""
        self._shared.handshakes.leave(self)
        self._pending = None
        super().abort()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes not yet taken by the kernel, encrypted or not."""
        size = super().get_write_buffer_size()
        return size if self._pending is None else size + self._pending_size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return also `sslcontext`, `ssl_object` and `PEER_CERTIFICATE`."""
        if name == "sslcontext":
            return self._shared.context
        if name == "ssl_object":
            return self._tls
        if name == PEER_CERTIFICATE:
            return self._tls.getpeercert(binary_form=True) if self._phase == OPEN else default
        return super().get_extra_info(name, default)

    def timer_expired(self, now: float) -> float:
        """Act on the deadline of the present phase (`Timed`)."""
        if self._phase == CONNECTING:
            self.fail("timed out")
            return 0.0
        return super().timer_expired(now)

    def fail(self, reason: str) -> None:
        """End an unfinished handshake."""
        self._shared.failures.add(reason, self.remote)
        self.abort()

    # Within.

    def _begin(self) -> None:
        shared = self._shared
        now = shared.loop.time()
        shared.wheel.start(self, now + shared.limits.handshake_s)
        shared.handshakes.enter(self, now)
        if shared.handshakes.crowd:
            shared.pause_accepting()

    def _receive_early_or_late(self, data: bytes) -> None:
        """Take part in the handshake; drop what follows the peer's or our last word."""
        if self._phase == CONNECTING:
            self._shake(data)

    def _wrap(self) -> ssl.SSLObject:
        shared = self._shared
        return shared.context.wrap_bio(shared.incoming, shared.outgoing, server_side=True)

    def _refuse(self, error: ssl.SSLError | ssl.CertificateError) -> None:
        self.fail(tls_reason(error))

    def _shake(self, data: bytes) -> None:
        shared = self._shared
        incoming, outgoing = shared.incoming, shared.outgoing
        if not self._started:
            self._started = True
            self._tls = self._wrap()
        if self._held:
            data, self._held = self._held + data, b""
        incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if incoming.pending:
                self._held = incoming.read()
            if outgoing.pending:
                self._emit()
                shared.handshakes.answered(self, shared.loop.time())
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._drain_alert()
            self._refuse(error)
            return
        shared.handshakes.leave(self)
        # Empty the shared buffers before application code runs.
        early = incoming.read()
        # The session ticket could wait for the first answer. But sending it acknowledges the
        # client's last flight, for which Nagle's algorithm makes a client wait (40 ms, measured).
        if outgoing.pending:
            self._emit()
        self._open()
        if early:
            self.data_received(early)

    def _read_on(self, first: bytes) -> tuple[bytes, bool]:
        """Read the further records of a chunk. Returns all plaintext and whether the peer ended."""
        incoming, tls = self._shared.incoming, self._tls
        parts = [first]
        ended = False
        try:
            while not ended and (incoming.pending or tls.pending()):
                part = tls.read(_RECORD)
                ended = not part
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts), ended

    def _encrypt(self, data: bytes) -> None:
        if len(data) <= _SLICE:
            self._tls.write(data)
            self._emit()
            return
        view = memoryview(data)
        for start in range(0, len(data), _SLICE):
            self._tls.write(view[start : start + _SLICE])
            self._emit()

    def _emit(self) -> None:
        """Send the records that OpenSSL has written."""
        self._raw.write(self._shared.outgoing.read())

    def _finish(self) -> None:
        self.flush()
        # A close_notify for a peer that has just hung up would only provoke a reset.
        if self._phase != OPEN or self._gone:
            return
        # Sends our close_notify; that the peer's has not come yet is said by an exception.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._shared.incoming.read()
        self._emit()

    def _fail_open(self, error: ssl.SSLError) -> None:
        """Drop an established connection whose peer broke the TLS protocol."""
        self._drain_alert()
        self._shared.failures.add(f"connection broken: {tls_reason(error)}", self.remote)
        self.abort()

    def _drain_alert(self) -> None:
        """Empty the shared buffers after a failure and tell the peer what OpenSSL has to say."""
        self._shared.incoming.read()
        if self._shared.outgoing.pending:
            self._emit()


def _nothing() -> None:
    """Stand in for a listener that has not introduced itself yet."""


def tls_reason(error: ssl.SSLError | ssl.CertificateError) -> str:
    """Return OpenSSL's short reason, such as `tlsv1 alert unknown ca`."""
    reason = getattr(error, "reason", None) or type(error).__name__
    return str(reason).lower().replace("_", " ")
