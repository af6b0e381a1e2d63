"""`iotedged`: all parts of the edge runtime in one process."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the daemon and end the process with its exit code (edge.md 2.6)."""
    # structlog would load it to colour tracebacks: 3 MB of a device's memory, for no journal.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from muster.edge.daemon.command import iotedged  # noqa: PLC0415 - nothing else needs it

    iotedged(prog_name="iotedged")
