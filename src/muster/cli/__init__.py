"""The `muster` command: a client of the running service, and the way to start one.

Every noun is a module of its own, imported when it is asked for, so that `muster --help` and each
command start fast; `requests` and `rich` are imported by the calls that need them.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and end the process with its exit code.

    0 done, 1 the service said no or the operation failed, 2 wrong usage, 3 the service cannot be
    reached (design.md 3).
    """
    from muster.cli.root import muster  # noqa: PLC0415 - likewise
    from muster.terminal.output import give_up_output, make_printable  # noqa: PLC0415 - nouns need none

    make_printable()
    try:
        muster(prog_name="muster")
    except OSError as error:  # the disk that stdout goes to is full, or the like
        give_up_output(error)
        raise SystemExit(1) from None
