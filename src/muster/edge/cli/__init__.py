"""The `iotedge` command: people's way to the runtime of their device (edge.md 7)."""

from __future__ import annotations

import sys

from muster.edge import extra


def main() -> None:
    """Run the command line and end the process with its exit code: 0 done, 1 failed, 2 usage."""
    from muster.edge.cli.root import iotedge, with_host_first  # noqa: PLC0415 - likewise
    from muster.terminal.output import give_up_output, make_printable  # noqa: PLC0415 - as in muster.cli

    make_printable()
    try:
        iotedge(with_host_first(sys.argv[1:]), prog_name="iotedge")
    except ModuleNotFoundError as error:
        raise extra.missing(error) from None
    except OSError as error:  # the disk that stdout goes to is full, or the like
        give_up_output(error)
        raise SystemExit(1) from None
