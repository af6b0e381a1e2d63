"""Module runtimes: what starts and stops modules. A runtime is one file; `base` says its port.

`BUILT_IN` names them. Another one is a file, a line here, and a line in `tests/contract`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from muster.edge.engine.base import Engine
from muster.edge.settings import Settings


def _docker(settings: Settings) -> Engine:
    # Imported when it is used: small devices have no engine.
    from muster.edge.engine.docker import DockerEngine  # noqa: PLC0415 - as said above

    return DockerEngine(settings.engine)


def _process(settings: Settings) -> Engine:
    from muster.edge.engine.process.engine import ProcessEngine  # noqa: PLC0415 - as the other

    return ProcessEngine(settings.home / "modules")


BUILT_IN: Final[dict[str, Callable[[Settings], Engine]]] = {
    "docker": _docker,
    "process": _process,
}
"""How each runtime is made, by the `type` of its modules in deployments."""
