"""The programs we are measured beside, with the service's own certificate."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load.job import Job
from benchmarks.place import ADDRESS, find, free_port, listening, server
from benchmarks.service import HOST
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect, Publish, Subscribe


class Peer:
    """A running peer: its processes and its TLS port."""

    def __init__(self, pids: list[int], port: int, ca_file: Path) -> None:
        self.pids = pids
        self._port = port
        self._ca_file = ca_file

    def job(self, kind: str, **fields: Any) -> Job:
        """Return a job for the load client against it."""
        base: dict[str, Any] = {
            "kind": kind,
            "address": ADDRESS,
            "port": self._port,
            "host": HOST,
            "ca_file": str(self._ca_file),
            "pids": self.pids,
        }
        return Job(**(base | fields))


def version(program: str) -> str:
    """Return what a peer calls its version, empty when it is not installed."""
    path = find(program)
    if path is None:
        return ""
    flag = {"mosquitto": "-h", "nginx": "-v"}.get(program, "--version")
    if program == "rabbitmq-server":
        # Has no flag for it; its package knows.
        query = ["dpkg-query", "-f", "${Package} ${Version}", "-W", program]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        return done.stdout.strip()
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0].replace("version", "").strip()


@contextlib.contextmanager
def mosquitto(
    work: Path, ca: Path, *, responder: bool = False, websockets: bool = False
) -> Iterator[Peer]:
    """Run mosquitto without persistence; on request with a responder, or for WebSockets."""
    secure, plain = free_port(), free_port()
    config = work / "mosquitto.conf"
    config.write_text(
        f"user root\npersistence false\nallow_anonymous true\nlog_type error\n"
        f"max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
        f"listener {plain} {ADDRESS}\n"
        f"listener {secure} {ADDRESS}\ncertfile {ca}/server.pem\nkeyfile {ca}/server.key\n"
        f"{'protocol websockets' if websockets else ''}\n"
    )
    command: list[str | Path] = [find("mosquitto") or "mosquitto", "-c", config]
    with contextlib.ExitStack() as stack:
        log = work / "mosquitto.log"
        broker = stack.enter_context(server(command, log, listening(secure)))
        pids = [broker.pid]
        if responder:
            said = work / f"responder-{secure}.log"
            program = [sys.executable, "-m", "benchmarks.responder", ADDRESS, str(plain)]
            process = stack.enter_context(
                server(program, said, lambda _: "subscribed" in said.read_text())
            )
            pids.append(process.pid)
        yield Peer(pids, secure, ca / "ca.pem")


class Bridge:
    """A mosquitto that keeps messages on disk and passes them on over TLS to another one.

    Args:
        work: for files.
        ca: of the service, with its certificate.
    """

    def __init__(self, work: Path, ca: Path) -> None:
        self._work = work
        self._ca = ca
        self._plain, self._secure, self._near = free_port(), free_port(), free_port()
        self._program = find("mosquitto") or "mosquitto"
        keys = f"certfile {ca}/server.pem\nkeyfile {ca}/server.key\n"
        common = (
            "user root\nallow_anonymous true\nlog_type error\nmax_queued_messages 0\n"
            "max_inflight_messages 0\nset_tcp_nodelay true\n"
        )
        (work / "above.conf").write_text(
            f"{common}persistence false\nlistener {self._plain} {ADDRESS}\n"
            f"listener {self._secure} {ADDRESS}\n{keys}"
        )
        (work / "below.conf").write_text(
            f"{common}persistence true\npersistence_location {work}/\nautosave_interval 1\n"
            f"listener {self._near} {ADDRESS}\n{keys}"
            f"connection up\naddress {HOST}:{self._secure}\nbridge_cafile {ca}/ca.pem\n"
            "topic # out 1\ncleansession false\nnotifications false\nrestart_timeout 1\n"
        )

    @property
    def stored(self) -> Path:
        """The file in which the first one keeps messages."""
        return self._work / "mosquitto.db"

    @contextlib.contextmanager
    def below(self) -> Iterator[Peer]:
        """Run the first one."""
        command: list[str | Path] = [self._program, "-c", self._work / "below.conf"]
        with server(command, self._work / "below.log", listening(self._near)) as process:
            yield Peer([process.pid], self._near, self._ca / "ca.pem")

    @contextlib.contextmanager
    def above(self) -> Iterator[Callable[[], int]]:
        """Run the second one; yield what tells how many messages it has given out."""
        command: list[str | Path] = [self._program, "-c", self._work / "above.conf"]
        with (
            server(command, self._work / "above.log", listening(self._secure)),
            counter(self._plain) as count,
        ):
            yield count


@contextlib.contextmanager
def counter(port: int) -> Iterator[Callable[[], int]]:
    """Subscribe to everything at a plain port; yield what tells how many messages have come."""
    arrived = 0
    link = socket.create_connection((ADDRESS, port), 30)
    link.settimeout(None)
    link.sendall(codec.encode(Connect("counter", keep_alive_s=0)))
    link.sendall(codec.encode(Subscribe(1, [("#", 0)])))

    def read() -> None:
        nonlocal arrived
        decoder = codec.Decoder()
        with contextlib.suppress(OSError):
            while data := link.recv(1 << 18):
                arrived += sum(isinstance(packet, Publish) for packet in decoder.feed(data))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield lambda: arrived
    finally:
        link.shutdown(socket.SHUT_RDWR)
        thread.join()
        link.close()


def mosquitto_websockets(work: Path, ca: Path) -> contextlib.AbstractContextManager[Peer]:
    """Run mosquitto for MQTT over WebSockets."""
    return mosquitto(work, ca, websockets=True)


@contextlib.contextmanager
def nats(work: Path, ca: Path) -> Iterator[Peer]:
    """Run nats-server with MQTT and JetStream in files."""
    secure = free_port()
    config = work / "nats.conf"
    config.write_text(
        f'listen: "{ADDRESS}:{free_port()}"\nserver_name: benchmark\n'
        f'jetstream {{ store_dir: "{work}/jetstream" }}\n'
        f'mqtt {{ listen: "{ADDRESS}:{secure}"\n'
        f'  tls {{ cert_file: "{ca}/server.pem", key_file: "{ca}/server.key" }} }}\n'
    )
    command: list[str | Path] = [find("nats-server") or "nats-server", "-c", config]
    with server(command, work / "nats.log", listening(secure)) as process:
        yield Peer([process.pid], secure, ca / "ca.pem")


@contextlib.contextmanager
def nats_core(work: Path) -> Iterator[Peer]:
    """Run nats-server as it is by default: no TLS, nothing stored."""
    port = free_port()
    command: list[str | Path] = [find("nats-server") or "nats-server", "-a", ADDRESS]
    command += ["-p", str(port)]
    with server(command, work / "nats.log", listening(port)) as process:
        yield Peer([process.pid], port, work)


@contextlib.contextmanager
def rabbitmq(work: Path, ca: Path) -> Iterator[Peer]:
    """Run rabbitmq-server with its AMQP 1.0 plugin, under its own port mapper."""
    secure, mapper = free_port(), free_port()
    config, plugins, pid_file = (work / name for name in ("rabbitmq.conf", "plugins", "pid"))
    config.write_text(
        f"listeners.tcp = none\nlisteners.ssl.1 = {ADDRESS}:{secure}\n"
        f"ssl_options.certfile = {ca}/server.pem\nssl_options.keyfile = {ca}/server.key\n"
        "ssl_options.verify = verify_none\nlog.console.level = error\n"
    )
    plugins.write_text("[rabbitmq_amqp1_0].")
    settings = {
        "HOME": work,
        "ERL_EPMD_ADDRESS": ADDRESS,
        "ERL_EPMD_PORT": mapper,
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": config,
        "RABBITMQ_DIST_PORT": free_port(),
        "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
        "RABBITMQ_LOG_BASE": work / "log",
        "RABBITMQ_MNESIA_BASE": work / "mnesia",
        "RABBITMQ_NODENAME": f"benchmark-{secure}@localhost",
        "RABBITMQ_PID_FILE": pid_file,
    }
    # Not Debian's wrapper, which becomes another user.
    program = find("rabbitmq-server", "/usr/lib/rabbitmq/bin") or "rabbitmq-server"
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), program]
    try:
        with server(command, work / "rabbitmq.log", listening(secure)):
            yield Peer([int(pid_file.read_text())], secure, ca / "ca.pem")
    finally:
        subprocess.run(
            ["env", f"ERL_EPMD_PORT={mapper}", "epmd", "-kill"], capture_output=True, check=False
        )


@contextlib.contextmanager
def nginx(work: Path, ca: Path) -> Iterator[Peer]:
    """Run nginx in one process, answering with a constant over TLS 1.3."""
    secure = free_port()
    config = work / "nginx.conf"
    config.write_text(
        f"user root;\ndaemon off;\nmaster_process off;\npid {work}/nginx.pid;\n"
        f"error_log {work}/nginx-error.log;\nevents {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; server {{ listen {ADDRESS}:{secure} ssl;\n"
        f"  ssl_certificate {ca}/server.pem; ssl_certificate_key {ca}/server.key;\n"
        f'  ssl_protocols TLSv1.3; location / {{ return 200 "ok"; }} }} }}\n'
    )
    command: list[str | Path] = [find("nginx") or "nginx", "-p", work, "-c", config]
    with server(command, work / "nginx.log", listening(secure)) as process:
        yield Peer([process.pid], secure, ca / "ca.pem")
