"""`iotedged`: all parts of the edge runtime in one process."""

from __future__ import annotations


def main() -> None:
    """Run the daemon and end the process with its exit code (edge.md 2.6)."""
    from muster.edge.daemon.command import iotedged  # noqa: PLC0415 - nothing else needs it

    iotedged(prog_name="iotedged")
