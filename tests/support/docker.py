"""A real Docker Engine and a registry with credentials, both of the tests' own.

They listen on a socket and a loopback address of this run, keep their data in its directory, add
nothing to the machine's firewall, and take the networks of containers from an address range of
their own: so several runs, and an engine that the machine has anyway, stay out of each other's way.

One worker has one engine, and the tests that use it are of the group `docker`, so that one worker
has them all: whoever removes all modules of an engine needs it alone.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from support.run import Run, free_port
from support.secrets import CLOCK, remember

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

BASE_IMAGE = "muster/base:1"
USER = "plant"
PASSWORD = "registry-passphrase-of-tests"
# What `htpasswd -B` makes of the two; the registry takes no other kind.
_HTPASSWD = f"{USER}:$2b$04$FGFEPqLshvXsXmP1gjkpmOpuIfgxVSZhLlLCyWftbxfRRLra7T82W\n"

_START_S = 60.0
_STOP_S = 60.0


@functools.cache
def why_none() -> str | None:
    """Return why no engine can be started here; `None` when one can."""
    if os.geteuid() != 0:
        return "a Docker Engine needs root"
    tools = ("dockerd", "docker-registry", "debootstrap", "ps", "ip")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"missing: {', '.join(missing)}; `scripts/setup engine` says how to get them"
    return None


class EngineTroubleError(AssertionError):
    """An engine or registry of the tests did not do what it was asked for."""


@dataclass(frozen=True)
class Answer:
    """What an engine answered."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Registry:
    """Debian's registry on a loopback address. Use it as a context manager.

    Args:
        seed: storage of a registry to begin with, which is left as it is.

    Attributes:
        address: `host:port`, the first part of its images' names.
        storage: the directory of what it holds.
    """

    def __init__(self, seed: Path | None = None) -> None:
        run = Run.current()
        number = run.next_number()
        host = f"127.{100 + run.slot}.240.{number % 250 + 1}"
        self.address = f"{host}:{free_port(host)}"
        self._directory = run.directory / f"docker-registry-{number}"
        self.storage = self._directory / "storage"
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """The image with Python and `azure-iot-device` inside."""
        return f"{self.address}/{BASE_IMAGE}"

    def __enter__(self) -> Self:
        self._directory.mkdir()
        if self._seed is not None:
            # The layers are large and never written again; everything else is small.
            shutil.copytree(self._seed, self.storage, copy_function=_link_layers)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        (self._directory / "htpasswd").write_text(_HTPASSWD)
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.address},
            "auth": {
                "htpasswd": {"realm": "tests", "path": str(self._directory / "htpasswd")},
            },
        }
        (self._directory / "config.yml").write_text(json.dumps(config))
        with (self._directory / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", self._directory / "config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        (self._directory / "pid").write_text(str(self._process.pid))
        _wait_for("the registry", self._process, self._directory / "log.txt", self._answers)

    def _answers(self) -> bool:
        host, _, port = self.address.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_STOP_S)
            self._process = None


def _link_layers(source: str, target: str) -> str:
    if source.endswith("/data"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return target
    return shutil.copyfile(source, target)


class DockerHost:
    """One Docker Engine. Use it as a context manager.

    Args:
        bridge: network device of its default network, which is there already; `none` for no such
            network.

    Attributes:
        directory: all it has on disk, its log too.
    """

    def __init__(self, bridge: str = "none") -> None:
        run = Run.current()
        self._bridge = bridge
        self._number = run.next_number()
        self.directory = run.directory / f"docker-{self._number}"
        self._pool = f"10.{100 + run.slot % 100}.{self._number % 16 * 16}.0/20"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "docker.sock"

    @property
    def _namespace(self) -> str:
        # Of few characters: names of temporary directories may hold one that is not among them.
        return f"muster-{str(self.directory).encode().hex()[-48:]}"

    @property
    def uri(self) -> str:
        """What a device's configuration says of it."""
        return f"unix://{self.socket}"

    # The process.

    def __enter__(self) -> Self:
        self.directory.mkdir()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.start_again()
            if self._process is not None:
                self._remove_everything()
                self.stop()
        finally:
            if self._process is not None:
                self.kill9()
            unmount(self.directory)

    def start(self) -> None:
        config = self.directory / "daemon.json"
        config.write_text("{}")  # so that the machine's own is not read
        with (self.directory / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--config-file", config, "--host", self.uri),
                    *("--data-root", self.directory / "data"),
                    *("--exec-root", self.directory / "exec"),
                    *("--pidfile", self.directory / "dockerd.pid"),
                    # Where the machine has a containerd, it is used, in a corner of our own.
                    *("--containerd-namespace", self._namespace),
                    *(
                        "--bridge",
                        self._bridge,
                        "--default-address-pool",
                        f"base={self._pool},size=26",
                    ),
                    *("--iptables=false", "--ip6tables=false", "--ip-masq=false"),
                    *("--ip-forward=false", "--shutdown-timeout", "5"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.directory / "pid").write_text(str(self._process.pid))
        _wait_for("dockerd", self._process, self.directory / "log.txt", self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.call("GET", "/version").status == 200
        return False

    def start_again(self) -> None:
        """Start it if a test has left it stopped."""
        if self._process is None:
            self.start()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_STOP_S)
        self._process = None

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        # Its containerd dies with it, and is taken for a living one as long as it is not reaped.
        pid = self.directory / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError):
            stat = Path("/proc") / pid.read_text() / "stat"
            end = CLOCK.monotonic() + _STOP_S
            while stat.read_text().rpartition(")")[2].split()[0] != "Z":
                assert CLOCK.monotonic() < end, "containerd outlives dockerd"
                time.sleep(0.02)
        pid.unlink(missing_ok=True)

    def log_text(self) -> str:
        return (self.directory / "log.txt").read_text(errors="replace")

    # Its API, as the tests use it beside the code that they test.

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request; an object as body is sent as JSON."""
        connection = _UnixConnection(self.socket)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(
                method, path, data, {"Content-Type": "application/json", **(headers or {})}
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            connection.close()

    def must(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Make a request that must be granted, also by what a stream of progress says."""
        answer = self.call(
            method, path, body, {key.replace("_", "-"): value for key, value in headers.items()}
        )
        if answer.status >= 400 or b'"errorDetail"' in answer.body:
            raise EngineTroubleError(f"{method} {path}: {answer.status} {answer.body.decode()}")
        with contextlib.suppress(json.JSONDecodeError):
            return answer.json
        return None

    def inspect(self, name: str) -> Any:
        return self.must("GET", f"/containers/{name}/json")

    def pull(self, image: str) -> None:
        """Have an image here, with the credentials of the registry."""
        self.must(
            "POST", f"/images/create?fromImage={quote(image, safe='')}", X_Registry_Auth=_login()
        )

    def push(self, image: str) -> None:
        name, _, tag = image.rpartition(":")
        self.must("POST", f"/images/{name}/push?tag={tag}", X_Registry_Auth=_login())

    def forget(self, image: str) -> None:
        """Have an image here no more."""
        self.must("DELETE", f"/images/{image}?force=1")

    def build(
        self, image: str, base: str, command: Sequence[str], files: Mapping[str, str] = {}
    ) -> None:
        """Make an image of a base and files with absolute paths."""
        lines = [f"FROM {base}", *(f"COPY files{path} {path}" for path in files)]
        lines.append(f"CMD {json.dumps(list(command))}")
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            contents = {f"files{path}": text for path, text in files.items()}
            for path, text in {"Dockerfile": "\n".join(lines), **contents}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), 0o755
                tar.addfile(entry, io.BytesIO(text.encode()))
        self.must(
            "POST",
            f"/build?t={quote(image, safe='')}&forcerm=1",
            context.getvalue(),
            Content_Type="application/x-tar",
        )

    def load(self, image: str, tar: Path) -> None:
        """Make an image of a root file system."""
        repository, _, tag = image.rpartition(":")
        query = f"fromSrc=-&repo={quote(repository, safe='')}&tag={tag}"
        with tar.open("rb") as file:
            connection = _UnixConnection(self.socket)
            connection.request(
                "POST",
                f"/images/create?{query}",
                file,
                {"Content-Type": "application/x-tar", "Content-Length": str(tar.stat().st_size)},
            )
            answer = connection.getresponse()
            if b"errorDetail" in (body := answer.read()) or answer.status >= 400:
                raise EngineTroubleError(f"import of {tar}: {answer.status} {body.decode()}")
            connection.close()

    def remove_containers(self) -> None:
        for container in self.must("GET", "/containers/json?all=1"):
            self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")

    def _remove_everything(self) -> None:
        self.remove_containers()
        for network in self.must("GET", "/networks"):
            if network["Name"] not in ("none", "host", "bridge"):
                self.call("DELETE", f"/networks/{network['Id']}")


def _login() -> str:
    remember(PASSWORD)
    login = {"username": USER, "password": PASSWORD}
    return base64.urlsafe_b64encode(json.dumps(login).encode()).decode()


def _wait_for(what: str, process: subprocess.Popen[bytes], log: Path, ready: Any) -> None:
    end = CLOCK.monotonic() + _START_S
    while not ready():
        if process.poll() is not None or CLOCK.monotonic() > end:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            process.kill()
            process.wait()
            raise EngineTroubleError(f"{what} did not start:\n{tail}")
        time.sleep(0.02)


def unmount(directory: Path) -> None:
    """Undo the mounts that an engine left below a directory."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        subprocess.run(["umount", "--lazy", mount], check=False)


def end_leftovers(run: Run) -> None:
    """End what workers that died left behind: engines, registries, containers, bridges."""
    if not any(run.directory.glob("docker-*")):
        return
    mark = str(run.directory).encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (process / "cmdline").read_bytes() and _is_engine(process):
                os.kill(int(process.name), signal.SIGKILL)
    unmount(run.directory)
    for line in subprocess.run(
        ["ip", "-brief", "-4", "addr"], capture_output=True, text=True, check=False
    ).stdout.splitlines():
        device, *rest = line.split()
        if device.startswith("br-") and any(f"10.{100 + run.slot % 100}." in part for part in rest):
            subprocess.run(["ip", "link", "del", device], check=False)


def _is_engine(process: Path) -> bool:
    name = (process / "comm").read_text().strip()
    return name.startswith(("dockerd", "containerd", "docker-registry"))
