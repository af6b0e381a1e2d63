"""The README's first command, but for the container: `make demo` adds an engine to this."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from muster.cli.demo_stage import may_bind

MUSTER = Path(sys.executable).parent / "muster"
ADDRESSES = ("127.0.0.1", "127.0.0.2")
PATIENCE_S = 110


@pytest.mark.skipif(
    not all(may_bind(address, 8883) for address in ADDRESSES),
    reason="port 8883 is taken, and the demo's devices know no other",
)
def test_the_demo() -> None:
    done = subprocess.run(
        [MUSTER, "demo"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"sensor-\d\d +assigned", done.stdout)) >= 9
    assert "group-key-used-directly" in done.stdout
    assert re.search(r"counter +running", done.stdout)
    assert re.search(r"counter: 1 to \d+ have arrived, 0 lost", done.stdout)
    assert "That was the main job." in done.stdout
