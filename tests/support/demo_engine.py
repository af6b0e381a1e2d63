"""A Docker Engine for `make demo`: `python -m support.demo_engine` starts one and runs the demo.

The same engine and image as the tests', under the same conditions. Where there can be none it says
why, and the demo does without.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from support.base_image import base_registry
from support.debian import NoTreeError
from support.docker import DockerHost, EngineTroubleError, Registry, why_none
from support.run import Run

_MUSTER = Path(sys.executable).parent / "muster"


def main() -> int:
    """Run the demo; return its exit code."""
    run = Run.begin()
    try:
        with contextlib.ExitStack() as stack:
            options = []
            if (reason := why_none()) is None:
                try:
                    registry = stack.enter_context(Registry(base_registry()))
                    host = stack.enter_context(DockerHost())
                    host.pull(registry.base)
                    options = ["--engine", host.uri, "--image", registry.base]
                except (NoTreeError, EngineTroubleError, OSError) as error:
                    reason = str(error)
            if not options:
                print(f"demo: no Docker Engine can be started here ({reason})", flush=True)
            return subprocess.run([_MUSTER, "demo", *options], check=False).returncode
    finally:
        run.end(keep=False)


if __name__ == "__main__":
    raise SystemExit(main())
