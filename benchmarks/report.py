"""Rows of measurements, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.load.job import Result
from benchmarks.place import ROOT
from muster.clock import SystemClock, format_time

RESULTS: Final = ROOT / "benchmarks" / "results"
_PEERS: Final = ("mosquitto", "nats-server", "nginx", "rabbitmq-server")


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One measurement.

    Attributes:
        what: what was measured.
        subject: of whom.
        value, unit: the figure that is compared.
        rate: operations a second of wall time.
        ratio, goal: of ours to the peer's, and what was aimed at, such as `>= 1.2`.
        details: anything else.
        note: what a reader must know, such as that the client was the limit.
    """

    what: str
    subject: str
    value: float
    unit: str
    rate: float | None = None
    ratio: float | None = None
    goal: str = ""
    details: dict[str, float | str] = msgspec.field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> str:
        """Whether the goal is met, in a word."""
        if self.ratio is None or not self.goal:
            return ""
        sign, _, bound = self.goal.partition(" ")
        good = self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)
        return "yes" if good else "no"


def middle(results: list[Result]) -> Result:
    """Return the run with the median of server CPU."""
    chosen = median_low([result.server_us for result in results])
    return next(result for result in results if result.server_us == chosen)


def cost(what: str, subject: str, results: list[Result], **fields: object) -> Row:
    """Make a row of server CPU per operation, the median of some runs."""
    result = middle(results)
    notes = ["client is the limit"] if result.client_bound else []
    if result.failures:
        notes.append(f"failures: {result.failures}")
    details: dict[str, float | str] = {
        "operations": float(result.operations),
        "runs": ", ".join(f"{each.server_us:.1f}" for each in results),
        "server_cpu_share": sum(result.server_cpu_s) / result.wall_s,
        "client_cpu_share": result.client_cpu_s / result.wall_s,
        **result.latencies_ms,
    }
    base = {
        "what": what,
        "subject": subject,
        "value": result.server_us,
        "unit": "us/op",
        "rate": result.rate,
        "details": details,
        "note": "; ".join(notes),
    }
    return msgspec.convert(base | fields, Row)


def machine() -> dict[str, str]:
    """Say what was measured on, and with what."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": f"{model}, {os.cpu_count()} processors",
        "system": platform.platform(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
        **{name: peers.version(name) or "not installed" for name in _PEERS},
    }


def save(name: str, rows: list[Row], *, quick: bool) -> None:
    """Write `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": name,
        "quick": quick,
        "time": format_time(SystemClock().now()),
        "machine": machine(),
        "rows": rows,
    }
    encoded = msgspec.json.encode(content)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def show(rows: Iterable[Row]) -> None:
    """Print the table."""
    table = Table(title="Benchmarks")
    for heading in ("what", "of"):
        table.add_column(heading)
    for heading in ("value", "rate/s", "ratio"):
        table.add_column(heading, justify="right")
    for heading in ("goal", "met", "note"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.what,
            row.subject,
            f"{row.value:,.4g} {row.unit}" if row.value < 1_000 else f"{row.value:,.0f} {row.unit}",
            "" if row.rate is None else f"{row.rate:,.0f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.goal,
            row.met,
            row.note,
        )
    Console(width=None if os.isatty(1) else 160).print(table)
