"""Container modules in the Docker Engine's words, translated both ways (edge.md 3.2, 3.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from muster.edge.engine.base import (
    WORKLOAD_URI,
    EngineError,
    JsonObject,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    Status,
)
from muster.edge.settings import Network

OWNER_LABEL: Final = "net.azure-devices.edge.owner"
OWNER: Final = "Microsoft.Azure.Devices.Edge.Agent"
IMAGE_LABEL: Final = "net.azure-devices.edge.original-image"
FINGERPRINT_LABEL: Final = "muster.fingerprint"

WORKLOAD_DIRECTORY: Final = "/var/run/iotedge"
"""Where the directory of a module's workload socket is in its container."""

_STATUS: Final = {
    "created": Status.STOPPED,
    "paused": Status.STOPPED,
    "restarting": Status.STOPPED,
    "running": Status.RUNNING,
    "dead": Status.DEAD,
}
_ENDED: Final = ("exited", "removing")

# The kernel gives these to every container, and they are ways to root (as the official daemon says
# when it drops them).
_UNSAFE_CAPABILITIES: Final = ("CHOWN", "SETUID")

_NO_EXTRA_HOSTS: Final = ("none", "container:")


def image_of(spec: ModuleSpec) -> str:
    """Return the image to make a module of, by digest where the deployment says one.

    Raises:
        EngineError: 400, the settings name none.
    """
    image, digest = spec.settings.get("image"), spec.settings.get("digest")
    if not isinstance(image, str) or not image:
        raise EngineError("settings.image must name an image", 400)
    if not digest:
        return image
    repository, colon, tag = image.rpartition(":")
    return f"{repository if colon and '/' not in tag else image}@{digest}"


def fingerprint(spec: ModuleSpec, *, elevated: bool) -> str:
    """Return what `FINGERPRINT_LABEL` says of a container made of the spec."""
    parts = (
        image_of(spec),
        spec.create_options,
        spec.env,
        str(spec.workload_socket),
        spec.device_names,
        elevated,
    )
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def network_body(network: Network) -> JsonObject:
    """Return the body that creates the network of modules."""
    body: JsonObject = {
        "Name": network.name,
        "CheckDuplicate": True,
        "EnableIPv6": network.ipv6,
    }
    if network.ipam:
        body["IPAM"] = {"Driver": "default", "Config": list(network.ipam)}
    return body


def gateways(network: JsonObject) -> list[str]:
    """Return the addresses of this device in a network, from what inspecting it says."""
    config = (network.get("IPAM") or {}).get("Config") or []
    return [entry["Gateway"].partition("/")[0] for entry in config if entry.get("Gateway")]


def container_body(
    spec: ModuleSpec, network: str, hosts: list[str], *, elevated: bool
) -> JsonObject:
    """Return the body that creates a module's container: its create options, completed.

    What the options say stays as they say it. Added are the image, labels, the environment they do
    not set themselves, the workload socket, and the network where they choose none.

    Args:
        spec: the module.
        network: name of the network of modules.
        hosts: addresses of this device in it.
        elevated: whether privileges and capabilities may be had.

    Raises:
        EngineError: 400, the options are not what the Docker Engine takes.
    """
    body = dict(spec.create_options)
    host = dict(_object(body, "HostConfig"))
    body["Image"] = image_of(spec)
    body["Labels"] = {
        **_object(body, "Labels"),
        OWNER_LABEL: OWNER,
        IMAGE_LABEL: spec.settings["image"],
        FINGERPRINT_LABEL: fingerprint(spec, elevated=elevated),
    }
    env = dict(spec.env)
    if spec.workload_socket is not None:
        # The directory, not the socket: a daemon that starts anew listens on a new one. Read-only,
        # so that nobody inside can put something else in its place.
        bind = f"{spec.workload_socket.parent}:{WORKLOAD_DIRECTORY}:ro"
        host["Binds"] = [*_texts(host, "Binds"), bind]
        env.setdefault(WORKLOAD_URI, f"unix://{WORKLOAD_DIRECTORY}/{spec.workload_socket.name}")
    for entry in _texts(body, "Env"):
        env.pop(entry.partition("=")[0], None)
    body["Env"] = [*(f"{key}={value}" for key, value in env.items()), *_texts(body, "Env")]
    if not host.get("NetworkMode") and not body.get("NetworkingConfig"):
        host["NetworkMode"] = network
        body["NetworkingConfig"] = {"EndpointsConfig": {network: {}}}
    _add_hosts(host, spec.device_names, hosts)
    if not elevated:
        host["Privileged"] = False
        host["CapAdd"] = []
        host["CapDrop"] = [*_UNSAFE_CAPABILITIES, *_texts(host, "CapDrop")]
    body["HostConfig"] = host
    return body


def _add_hosts(host: JsonObject, names: tuple[str, ...], addresses: list[str]) -> None:
    mode = str(host.get("NetworkMode", ""))
    if mode.startswith(_NO_EXTRA_HOSTS):
        return
    if mode == "host":
        addresses = ["127.0.0.1"]
    said = _texts(host, "ExtraHosts")
    known = {entry.partition(":")[0] for entry in said}
    added = [f"{name}:{ip}" for name in names if name not in known for ip in addresses]
    if added:
        host["ExtraHosts"] = [*said, *added]


def _object(options: JsonObject, key: str) -> JsonObject:
    value = options.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise EngineError(f"createOptions: {key} must be an object", 400)
    return value


def _texts(options: JsonObject, key: str) -> list[str]:
    value = options.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EngineError(f"createOptions: {key} must be a list of strings", 400)
    return value


def module_of(inspected: JsonObject) -> Module:
    """Return a module from what inspecting its container says."""
    state, labels = inspected["State"], inspected["Config"].get("Labels") or {}
    code = int(state.get("ExitCode") or 0)
    what = str(state.get("Status") or "")
    status = _STATUS.get(what, Status.UNKNOWN)
    if what in _ENDED:
        status = Status.FAILED if code else Status.STOPPED
    description = state.get("Error") or (
        f"{what}, out of memory" if state.get("OOMKilled") else what
    )
    return Module(
        name=inspected["Name"].removeprefix("/"),
        status=status,
        description=description,
        exit_code=code,
        started_at=read_time(state.get("StartedAt")),
        exited_at=read_time(state.get("FinishedAt")),
        settings={
            "image": labels.get(IMAGE_LABEL, inspected["Config"].get("Image", "")),
            "imageHash": inspected.get("Image", ""),
        },
        fingerprint=labels.get(FINGERPRINT_LABEL, ""),
    )


def read_time(text: str | None) -> datetime | None:
    """Read one of the engine's times, which has nine digits of a second; `None` for never."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return None if moment.year == 1 else moment.astimezone(UTC)


def log_query(wanted: LogRange) -> dict[str, str]:
    """Return the query that asks for some of a log."""
    query = {
        "stdout": "1",
        "stderr": "1",
        "follow": str(int(wanted.follow)),
        "timestamps": str(int(wanted.timestamps)),
        "tail": "all" if wanted.tail is None else str(wanted.tail),
    }
    for key, moment in (("since", wanted.since), ("until", wanted.until)):
        if moment is not None:
            query[key] = f"{moment.timestamp():.6f}"
    return query


class Demultiplexer:
    """Takes apart what the engine sends as a log: frames of a stream's number, length and bytes.

    Args:
        terminal: the container has a terminal, whose log has no frames.
    """

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[LogChunk]:
        """Yield what is whole; a frame that is not is kept for the next call."""
        if self._terminal:
            yield LogChunk(1, data)
            return
        self._buffer += data
        start = 0
        while len(self._buffer) >= start + 8:
            end = start + 8 + int.from_bytes(self._buffer[start + 4 : start + 8])
            if len(self._buffer) < end:
                break
            yield LogChunk(self._buffer[start], bytes(self._buffer[start + 8 : end]))
            start = end
        del self._buffer[:start]
