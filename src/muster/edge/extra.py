"""What is said where the dependencies of the device side were not installed."""

from __future__ import annotations


def missing(error: ModuleNotFoundError) -> SystemExit:
    """Return the end of a command that lacks a library; it says how to get that."""
    if (error.name or "").partition(".")[0] == "muster":
        raise error
    return SystemExit(
        f"This needs more than is installed ({error.name} is missing). "
        "Install it: pip install 'muster-iot[edge]'"
    )
