"""The Node scripts beside the conformance tests, run with the CA in their environment only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType

SCRIPTS = Path(__file__).parent.parent / "conformance" / "node"
PATIENCE_S = 90.0


class Trusted(Protocol):
    """Something with a CA of its own: an instance, an edge device."""

    @property
    def ca_file(self) -> Path:
        """Where that is, PEM."""


class NodeScript:
    """One running script; it reports a JSON object a line."""

    def __init__(self, instance: Trusted, script: str, context: dict[str, Any]) -> None:
        if (node := shutil.which("node")) is None or not (SCRIPTS / "node_modules").exists():
            pytest.skip("Node.js with npm was missing at `make setup`: apt-get install nodejs npm")
        self._process = subprocess.Popen(
            [node, SCRIPTS / script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(instance.ca_file)},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(context))
        self._process.stdin.close()
        self._patience = threading.Timer(PATIENCE_S, self._process.kill)
        self._patience.start()
        self._results: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._patience.cancel()
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()

    def _next_line(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def wait_for(self, key: str) -> Any:
        """Read on until the script reports `key`."""
        while (line := self._next_line()) is not None:
            if key in line:
                return line[key]
            if "scenario" in line:
                self._results[line["scenario"]] = line
        raise AssertionError(f"the script ended without {key}: {self._results}")

    def results(self) -> dict[str, Any]:
        """Read to the end and return what became of each scenario."""
        while (line := self._next_line()) is not None:
            if "scenario" in line:
                self._results[line["scenario"]] = line
        return self._results


def run_script(instance: Trusted, script: str, context: dict[str, Any]) -> dict[str, Any]:
    """Run a script to its end and return its scenarios by name."""
    with NodeScript(instance, script, context) as running:
        return running.results()


def value_of(results: dict[str, Any], scenario: str) -> Any:
    """Return what a scenario came to, which must not be an error."""
    outcome = results.get(scenario)
    assert outcome is not None, f"no outcome of {scenario}, only of {sorted(results)}"
    assert "error" not in outcome, outcome["error"]
    return outcome.get("value")
