"""Examples in the help of commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def examples(*commands: str, about: str | None = None) -> Callable[[F], F]:
    """Add commands that a reader can copy to the help of the decorated one.

    Args:
        commands: a line each, as one would type them.
        about: what the command is for, where that is not its docstring.
    """

    def add(command: F) -> F:
        text = inspect.cleandoc(about or command.__doc__ or "")
        title = "Example" if len(commands) == 1 else "Examples"
        lines = "".join(f"\n  {each}" for each in commands)
        # click leaves a paragraph alone that begins with \b.
        command.__doc__ = f"{text}\n\n\b\n{title}:{lines}"
        return command

    return add
