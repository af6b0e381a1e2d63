"""What a deployment says of a process module: `settings` of modules with `type: "process"`.

| Setting | Is | Default |
|---|---|---|
| `command` | program and arguments, a list, or a text that is split as a shell would | required |
| `packages` | list of Python packages as pip takes them, found first on `PATH` | none |
| `packageSource` | a directory of wheels, or the URL of an index | pip's own configuration |
| `workingDirectory` | absolute path | a directory of its own, which goes when the module goes |
| `user` | `name`, `name:group`, or the numbers | that of the daemon; another one needs root |
| `limits.memory` | bytes, or `64m`: what all of it may take (see `group`) | none |
| `limits.cpuSeconds` | processor time of each of its processes | none |
| `limits.openFiles` | of each of its processes | the daemon's |
| `limits.processes` | of it, in all (likewise) | none |
| `limits.log` | bytes, or `10m`: of its log on disk | `10m` |

`image` may stand there, because tools of the official runtime ask for it; nothing is done with it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
from typing import Any, Final

import msgspec

from muster.edge.engine.base import EngineError, ModuleSpec
from muster.edge.engine.process.environments import Packages

_LOG_BYTES: Final = 10 << 20
_LAST_NUMBER: Final = 2**32 - 2
"""Of users and groups; the one after it stands for none (chown(2))."""
_LEAST_LOG_BYTES: Final = 64 << 10
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SIZE: Final = re.compile(r"(\d+)\s*([kmg]?)b?", re.IGNORECASE)
_FACTORS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

_KEYS: Final = {
    "command",
    "packages",
    "packageSource",
    "workingDirectory",
    "user",
    "limits",
    "image",
}
_LIMITS: Final = {
    "memory": "memory",
    "cpuSeconds": "cpu",
    "openFiles": "files",
    "processes": "processes",
    "log": "log",
}
_SIZES: Final = ("memory", "log")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who a module runs as.

    Attributes:
        name: as the system knows it; the number where it knows none.
        uid: number of the user.
        gid: number of the group.
        groups: numbers of all groups.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A process module, checked.

    Attributes:
        command: program and arguments.
        packages: of its Python environment; `None` where it has none.
        directory: to run in; `None` for its own.
        user: `None` for the daemon's.
        limits: as the supervisor takes them.
        env: all of it but what depends on where the module is.
    """

    command: tuple[str, ...]
    packages: Packages | None
    directory: str | None
    user: User | None
    limits: dict[str, int]
    env: dict[str, str]


def parse(spec: ModuleSpec) -> Program:
    """Check the settings of a module.

    Raises:
        EngineError: 400, they are not what the table above says.
    """
    try:
        return _parse(spec)
    except ValueError as error:
        raise EngineError(str(error), 400) from error


def _parse(spec: ModuleSpec) -> Program:
    settings = spec.settings
    if unknown := sorted(settings.keys() - _KEYS):
        raise ValueError(f"settings.{unknown[0]} is nothing that a process module has")
    if spec.create_options:
        raise ValueError("createOptions are of containers; a process module has settings.limits")
    directory = settings.get("workingDirectory")
    if directory is not None and not (isinstance(directory, str) and directory.startswith("/")):
        raise ValueError("settings.workingDirectory must be an absolute path")
    command = _command(settings.get("command"))
    texts = (*command, directory or "", *spec.env, *spec.env.values())
    if any("\0" in text for text in texts) or any("=" in key for key in spec.env):
        raise ValueError("the command and the environment must be without zero bytes")
    user = _user(settings.get("user"))
    return Program(
        command=command,
        packages=_packages(settings.get("packages"), settings.get("packageSource")),
        directory=directory,
        user=user,
        limits=_limits(settings.get("limits", {})),
        env={
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "USER": user.name if user else _own_name(),
            **spec.env,
        },
    )


def _command(said: Any) -> tuple[str, ...]:
    if isinstance(said, str):
        said = shlex.split(said)
    if not isinstance(said, list) or not said or not all(isinstance(part, str) for part in said):
        raise ValueError("settings.command must be a program and its arguments, as list or text")
    if not said[0]:
        raise ValueError("settings.command must begin with a program")
    return tuple(said)


def _packages(said: Any, source: Any) -> Packages | None:
    if said is None and source is None:
        return None
    if not isinstance(said, list) or not all(isinstance(one, str) and one for one in said):
        raise ValueError("settings.packages must be a list of packages as pip takes them")
    if any("\0" in one for one in said):
        raise ValueError("settings.packages must be without zero bytes")
    if source is not None and not (
        isinstance(source, str) and source.startswith(("/", "https://", "http://"))
    ):
        raise ValueError("settings.packageSource must be an absolute path or the URL of an index")
    return Packages(requirements=tuple(sorted(said)), source=source)


def _limits(said: Any) -> dict[str, int]:
    if not isinstance(said, dict):
        raise ValueError("settings.limits must be an object")  # noqa: TRY004 - one kind is caught
    limits = {"log": _LOG_BYTES}
    for key, value in said.items():
        if key not in _LIMITS:
            raise ValueError(f"settings.limits.{key} is no limit; there are {', '.join(_LIMITS)}")
        match = _SIZE.fullmatch(value) if isinstance(value, str) and key in _SIZES else None
        if match is not None:
            limits[_LIMITS[key]] = int(match[1]) * _FACTORS[match[2].lower()]
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            limits[_LIMITS[key]] = value
        else:
            what = "bytes, for example 64m" if key in _SIZES else "a number greater than 0"
            raise ValueError(f"settings.limits.{key} must be {what}")
    limits["log"] = max(limits["log"], _LEAST_LOG_BYTES)
    return limits


def _user(said: Any) -> User | None:
    if said is None:
        return None
    if not isinstance(said, str | int) or isinstance(said, bool) or not str(said):
        raise ValueError("settings.user must be a name, name:group, or numbers")
    name, _, group = str(said).partition(":")
    try:
        known = pwd.getpwuid(_number(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise ValueError(f"settings.user: this device has no user {name}") from None
        known = pwd.struct_passwd((name, "x", _number(name), _number(name), "", "/", ""))
    try:
        gid = _group(group) if group else known.pw_gid
    except KeyError:
        raise ValueError(f"settings.user: this device has no group {group}") from None
    if os.geteuid() != 0:
        if known.pw_uid != os.geteuid():
            raise ValueError(f"settings.user: a daemon that is not root cannot be {name}")
        return None
    groups = (gid,) if group else tuple(os.getgrouplist(known.pw_name, gid))
    return User(name=known.pw_name, uid=known.pw_uid, gid=gid, groups=groups)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group(said: str) -> int:
    return _number(said) if said.isdecimal() else grp.getgrnam(said).gr_gid


def _number(said: str) -> int:
    if len(said) > len(str(_LAST_NUMBER)) or int(said) > _LAST_NUMBER:
        raise ValueError(f"settings.user: numbers go up to {_LAST_NUMBER}")
    return int(said)
