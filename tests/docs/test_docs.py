"""The documentation says what is so: generated pages, links, and commands that are run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = re.compile(r"^ *```bash run\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"\bmuster ((?:[a-z]+(?:-[a-z]+)*)(?: [a-z]+(?:-[a-z]+)*)?)")

sys.path.insert(0, str(ROOT / "scripts"))
import reference  # noqa: E402


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (reference.DOCS / name).read_text() == reference.PAGES[name](), (
        "run: python scripts/reference.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [each for each in LINK.findall(page.read_text()) if "://" not in each]
    missing = [each for each in targets if not (page.parent / each).exists()]
    assert not missing


def test_keys_of_edge_devices_are_documented() -> None:
    from muster.edge.configuration.load import parse
    from muster.edge.configuration.toml_format import REFUSED

    text = (ROOT / "docs/reference/edge-configuration.md").read_text()
    refused = text.partition("Refused, because")[2].partition("##")[0]
    without_effect = text.partition("No effect, because")[2].partition("Refused")[0]
    assert [key for key in REFUSED if f"`{key}`" not in refused] == []
    base = '[provisioning]\nsource = "none"\n'
    for key in ("watchdog", "aziot_max_requests"):
        assert f"`{key}`" in without_effect
        assert parse(Path("config.toml"), f"{base}[{key}]\na = 1\n", hostname="h").notices


def test_metrics_are_documented() -> None:
    from muster.observe.metrics import Metrics

    text = (ROOT / "docs/reference/metrics.md").read_text()
    metrics = Metrics()
    metrics.decided("register", "assigned", "assigned")
    metrics.fault_injected("delay")
    names = re.findall(r"^# TYPE (\w+)", metrics.exposition().decode(), re.MULTILINE)
    documented = [name for name in names if not name.endswith("_created")]
    assert documented
    assert [name for name in documented if name not in text] == []


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A fresh instance with one hub, as the pages presume, found by its data directory."""
    directory = tmp_path_factory.mktemp("docs")
    data = directory / "muster-data"
    command = [sys.executable, "-m", "muster", "up", "--data-dir", str(data)]
    ports = ["--listen", "127.0.0.1", "--https-port", "0", "--mqtt-port", "0", "--amqp-port", "0"]
    with (directory / "log").open("wb") as log:
        service = subprocess.Popen([*command, *ports], stdout=log, stderr=log)
    try:
        for _ in range(600):
            if (data / "instance.json").exists():
                break
            assert service.poll() is None, (directory / "log").read_text()
            time.sleep(0.05)
        assert json.loads((data / "instance.json").read_bytes())["hubs"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**os.environ, "MUSTER_DATA_DIR": str(data), "PATH": path, "NO_COLOR": "1"}
    finally:
        service.terminate()
        assert service.wait(30) == 0


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if RUNNABLE.search(page.read_text())], ids=_id
)
def test_commands_run(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    for block in RUNNABLE.findall(page.read_text()):
        script = "\n".join(line.strip() for line in block.splitlines())
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_commands_that_are_only_named_exist() -> None:
    from muster.cli.root import muster

    unknown = []
    for page in PAGES:
        for text in re.findall(r"`(muster [^`]+)`", page.read_text()):
            words = text.split()[1:]
            command = muster.get_command(None, words[0]) if words[0][0] != "-" else muster
            if command is None:
                unknown.append(text)
            elif hasattr(command, "commands") and len(words) > 1 and words[1][0].islower():
                unknown += [text] if words[1] not in command.commands else []
    assert unknown == []
