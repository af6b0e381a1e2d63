"""4 and 5: many devices at once, and many enrollments."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.load.job import Result, percentiles
from benchmarks.place import CLOCK, directory, load
from benchmarks.report import Row
from benchmarks.service import KEY, Caller, Muster, muster
from muster.auth.keyring import Keyring
from muster.auth.symmetric_keys import decode as decode_key
from muster.auth.symmetric_keys import derive, encode
from muster.clock import parse_time
from muster.ids import Randomness
from muster.model.enrollment import (
    AttestationMechanism,
    IndividualEnrollment,
    SymmetricKeyAttestation,
)
from muster.provisioning.enrollments import Enrollments
from muster.store.data_directory import DataDirectory
from muster.store.sqlite import SqliteEngine

_WITNESS: Final = "witness"
_GROUP: Final = "fleet"
_SOURCES: Final = [f"127.0.3.{number}" for number in range(1, 17)]
_BATCH: Final = 1_000


def storm(*, quick: bool, count: int | None = None) -> list[Row]:
    """Let a whole fleet register, stop the service, and let all register again at once."""
    count = count or (3_000 if quick else 100_000)
    fields: dict[str, Any] = {
        "count": count,
        "connections": 500,
        "sources": _SOURCES,
        "prefix": "storm-",
        "timeout_s": 900.0,
    }
    with directory() as work:
        data = work / "data"
        with muster(data) as service:
            service.enroll_group(_GROUP)
            _enroll_witness(service)
            first, _ = _with_service_calls(service, lambda: load(service.registrations(**fields)))
        with muster(data) as service:
            began = CLOCK.time()
            again, calls = _with_service_calls(
                service, lambda: load(service.registrations(**fields))
            )
            kept = _assigned_since(service, began, "storm-")
    row = _storm_row(f"storm, {count:,} devices again", again)
    row.details |= {"records_kept": float(kept)}
    if kept != count or again.operations != count:
        row.note = f"LOST: {again.operations} assigned, {kept} records; {again.failures}"
    else:
        row.note = "; ".join(filter(None, [row.note, "nothing lost"]))
    seen = percentiles(calls)
    return [
        _storm_row(f"{count:,} devices, first time", first),
        row,
        Row(
            what="storm, slowest over median",
            subject="muster",
            value=again.latencies_ms["slowest"] / again.latencies_ms["p50"],
            unit="x",
        ),
        Row(
            what="storm, service call p99",
            subject="muster",
            value=seen["p99"],
            unit="ms",
            details={**seen, "calls": float(len(calls))},
            note=f"GET /enrollments/{_WITNESS}, {len(calls)} answered",
        ),
    ]


def scale(*, quick: bool) -> list[Row]:
    """Measure registration and service queries as enrollments grow."""
    sizes = [1_000, 20_000, 100_000] if quick else [1_000, 100_000, 1_000_000]
    rows: list[Row] = []
    bases: dict[str, Row] = {}
    with directory() as work:
        data = work / "data"
        with muster(data):
            pass
        present, seeded = 0, 0.0
        for size in sizes:
            start = CLOCK.monotonic()
            asyncio.run(_seed(data, present, size))
            seeded = CLOCK.monotonic() - start
            present = size
            with muster(data) as service:
                for row in _latencies(service, size):
                    kind = row.what
                    base = bases.setdefault(kind, row)
                    row.what = f"{kind} at {size:,}"
                    if base is not row:
                        row.ratio, row.goal = row.value / base.value, "<= 1.5"
                    rows.append(row)
        files = sum(each.stat().st_size for each in data.glob("*.db*"))
        starts = []
        for _ in range(3):
            with muster(data) as service:
                starts.append(service.started_s)
    at = f"at {sizes[-1]:,}"
    note = f"seeded in {seeded:.0f} s through the store, service stopped"
    rows += [
        Row(what=f"database {at}", subject="muster", value=files / 2**20, unit="MiB", note=note),
        Row(what=f"start {at}", subject="muster", value=sorted(starts)[1], unit="s"),
    ]
    return rows


def _storm_row(what: str, result: Result) -> Row:
    seen = result.latencies_ms
    notes = [f"p50 {seen['p50']:,.0f} ms, p99 {seen['p99']:,.0f} ms"]
    if result.client_bound:
        notes.append("client is the limit")
    return Row(
        what=what,
        subject="muster",
        value=result.server_us,
        unit="us/op",
        rate=result.rate,
        details={**seen, "wall_s": result.wall_s, "failures": str(result.failures)},
        note="; ".join(notes),
    )


def _enroll_witness(service: Muster) -> None:
    mechanism = {"type": "symmetricKey"}
    body = {"registrationId": _WITNESS, "attestation": mechanism}
    service.dps().call("PUT", f"/enrollments/{_WITNESS}", body)


def _with_service_calls(service: Muster, work: Callable[[], Result]) -> tuple[Result, list[float]]:
    """Ask for an enrollment twenty times a second while something else goes on."""
    latencies: list[float] = []
    over = threading.Event()

    def ask() -> None:
        caller = service.dps()
        while not over.wait(0.05):
            latencies.append(_timed(caller, "GET", f"/enrollments/{_WITNESS}"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        return work(), latencies
    finally:
        over.set()
        thread.join()


def _assigned_since(service: Muster, began: float, prefix: str) -> int:
    """Count the group's devices whose record says assigned, written since `began`."""
    caller, continuation = service.dps(), ""
    found: set[str] = set()
    while True:
        headers = {"x_ms_max_item_count": "1000"}
        if continuation:
            headers["x_ms_continuation"] = continuation
        page, answer = caller.exchange(
            "POST",
            f"/registrations/{_GROUP}/query",
            {"query": "SELECT * FROM registrations"},
            **headers,
        )
        for record in page:
            name = record["registrationId"]
            updated = parse_time(record["lastUpdatedDateTimeUtc"]).timestamp()
            if (
                name.startswith(prefix)
                and (record["status"], record["deviceId"]) == ("assigned", name)
                and updated >= began - 1
            ):
                found.add(name)
        continuation = answer.get("x-ms-continuation") or ""
        if not continuation:
            return len(found)


async def _seed(data: Path, start: int, end: int) -> None:
    """Write enrollments as the import does, without HTTP; the service does not run."""
    raw = decode_key(KEY)
    with DataDirectory.open(data) as directory_:
        engine = await SqliteEngine.open(directory_.database)
        try:
            keyring = Keyring.load_or_create(directory_.master_key)
            enrollments = Enrollments(engine, keyring, CLOCK, Randomness())
            for first in range(start, end, _BATCH):
                entries = [
                    _enrollment(f"scale-{number}", encode(derive(raw, f"scale-{number}")))
                    for number in range(first, min(first + _BATCH, end))
                ]
                await enrollments.bulk("create", entries)
        finally:
            await engine.close()


def _enrollment(name: str, key: str) -> IndividualEnrollment:
    keys = SymmetricKeyAttestation(key, key)
    mechanism = AttestationMechanism("symmetricKey", keys)
    return IndividualEnrollment(registration_id=name, attestation=mechanism)


def _latencies(service: Muster, size: int) -> list[Row]:
    # Coprime with every size, so it goes all over the table.
    picks = [number * 7_919 % size for number in range(1, 501)]
    job = service.registrations(count=len(picks), connections=1, prefix="scale-", picks=picks)
    registered = load(job)
    caller = service.dps()
    one = [_timed(caller, "GET", f"/enrollments/scale-{pick}") for pick in picks]
    _, answer = caller.exchange("POST", "/enrollments/query", _QUERY, x_ms_max_item_count="500")
    continuation = answer["x-ms-continuation"]
    pages = [
        _timed(
            caller,
            "POST",
            "/enrollments/query",
            _QUERY,
            x_ms_max_item_count="100",
            x_ms_continuation=continuation,
        )
        for _ in range(100)
    ]
    return [
        _row("register", registered.latencies_ms),
        _row("GET one enrollment", percentiles(one)),
        _row("query, 100 a page", percentiles(pages)),
    ]


_QUERY: Final = {"query": "SELECT * FROM enrollments"}


def _row(what: str, seen: dict[str, float]) -> Row:
    note = f"p99 {seen['p99']:.1f} ms"
    return Row(
        what=what, subject="muster", value=seen["p50"], unit="ms p50", details={**seen}, note=note
    )


def _timed(caller: Caller, method: str, path: str, body: Any = None, **headers: str) -> float:
    start = CLOCK.monotonic()
    caller.call(method, path, body, **headers)
    return CLOCK.monotonic() - start
