"""Checks of the container engine and its configuration."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import msgspec

from muster.edge import foreign_json
from muster.edge.check.causes import Cause
from muster.edge.check.engine import EngineConnection
from muster.edge.check.outcome import IGNORED, OK, Outcome, Problem, Result, warning
from muster.edge.local_api.sockets import path_of

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings


def container_engine(around: Surroundings) -> Outcome:
    """Ask the container engine for its version."""
    uri = around.settings.engine.uri
    if not _is_there(uri):
        raise warning(
            Cause.ENGINE_MISSING,
            f"there is no container engine at {uri}: only modules of type `process` can run",
            "install one (on Debian: apt install docker.io), or set moby_runtime.uri to its socket",
            blocks=True,
        )
    connection = EngineConnection(uri, around.options.patience_s)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())
        return Outcome(result=Result.OK, facts={"engine_version": str(version["Version"])})
    except PermissionError:
        raise Problem(
            Cause.ENGINE_FORBIDDEN,
            f"the container engine at {uri} may not be used: permission denied",
            "run the daemon, and this command, as root or as a member of the group docker",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise Problem(
            Cause.ENGINE_SILENT,
            f"the container engine at {uri} does not answer: {error}",
            "sudo systemctl start docker",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise Problem(
            Cause.ENGINE_FOREIGN,
            f"what answers at {uri} is no container engine",
            "set moby_runtime.uri to the socket of the engine",
        ) from None
    finally:
        connection.close()


def engine_logs(around: Surroundings) -> Outcome:
    """See that logs of containers do not fill the disk."""
    found = _engine_file(around)
    if found is None:
        return IGNORED
    if found.log_driver == "json-file" and not found.log_opts.get("max-size"):
        raise warning(
            Cause.ENGINE_LOGS_UNBOUNDED,
            f"logs of containers grow without bound: {around.options.engine_file} sets no limit",
            'put {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}} '
            "into it, and restart the engine",
        )
    return OK


def engine_dns(around: Surroundings) -> Outcome:
    """See that containers have a DNS server of their own."""
    found = _engine_file(around)
    if found is None:
        return IGNORED
    if not found.dns:
        raise warning(
            Cause.ENGINE_WITHOUT_DNS,
            f"containers use the DNS server of this device: {around.options.engine_file} sets none",
            'where that server cannot be reached from containers, put {"dns": ["<address>"]} into '
            "the file, and restart the engine",
        )
    return OK


def engine_ipv6(around: Surroundings) -> Outcome:
    """See that the engine has the IPv6 that the network of modules wants."""
    found = _engine_file(around)
    if found is None or not around.settings.engine.network.ipv6:
        return IGNORED
    if not found.ipv6:
        raise warning(
            Cause.ENGINE_WITHOUT_IPV6,
            f"moby_runtime.network.ipv6 is true, and {around.options.engine_file} has no IPv6",
            'put {"ipv6": true, "fixed-cidr-v6": "<prefix>/64"} into the file, and restart the '
            "engine; or take ipv6 out",
        )
    return OK


def _is_there(uri: str) -> bool:
    if not uri.startswith("unix:"):
        return True
    try:
        return path_of(uri).exists()
    except PermissionError:
        return True  # somewhere that this user may not look at


class _EngineFile(msgspec.Struct, rename="kebab"):
    """What is looked at in the engine's configuration."""

    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    dns: list[str] = []
    ipv6: bool = False


def _engine_file(around: Surroundings) -> _EngineFile | None:
    """Return the engine's configuration; `None` where there is no engine."""
    if not _is_there(around.settings.engine.uri):
        return None
    path = around.options.engine_file
    try:
        return foreign_json.decode(path.read_bytes(), _EngineFile)
    except FileNotFoundError:
        return _EngineFile()
    except (OSError, foreign_json.ForeignJsonError) as error:
        raise Problem(
            Cause.ENGINE_FILE_UNUSABLE,
            f"{path} cannot be read: {error}",
            "correct it; the engine reads it, too",
        ) from None
