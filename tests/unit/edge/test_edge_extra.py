"""The device side where its libraries were not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("part", "arguments"), [("cli", ("config", "import", "-c")), ("daemon", ("-c",))]
)
def test_what_lacks_a_library_says_how_to_get_it(
    part: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    old = tmp_path / "config.yaml"
    old.write_text("hostname: x\n")
    begin = f"import sys; sys.modules['yaml'] = None; from muster.edge.{part} import main; main()"
    ended = subprocess.run(
        (sys.executable, "-c", begin, *arguments, str(old)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "This needs more than is installed (yaml is missing). "
        "Install it: pip install 'muster-iot[edge]'\n"
    )
