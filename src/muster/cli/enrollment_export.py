"""`muster enrollment export`: all individual enrollments to a file that `import` reads."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from muster.cli.enrollment_fields import READ_ONLY, is_edge, reprovision_name
from muster.cli.failures import FailedError
from muster.cli.import_fields import COLUMNS
from muster.cli.options import service_command
from muster.cli.output_file import replacing_text
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, to_json, warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.cli.connection import Invocation

_SUFFIXES: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@click.command("export")
@click.argument("file", metavar="FILE")
@click.option("--keys", "--show-keys", "with_keys", is_flag=True, help="Write the keys, too.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl"]),
    help="Of FILE [default: by its name; csv for stdout].",
)
@service_command
@examples("muster enrollment export devices.csv", "muster enrollment export backup.jsonl --keys")
def export_enrollments(
    invocation: Invocation, *, file: str, with_keys: bool, file_format: str | None
) -> None:
    """Write all individual enrollments to a CSV or JSON Lines file (- for stdout).

    JSON Lines keep every field; CSV has the columns of `import`. A file with keys can be read by
    its owner only. An existing file is replaced when the export is complete, not before; a pipe or
    a device is written to.
    """
    chosen = file_format or ("csv" if file == "-" else _SUFFIXES.get(Path(file).suffix.lower()))
    if chosen is None:
        raise click.UsageError(f"{file} is neither .csv nor .jsonl; say which with --format.")
    client = invocation.dps()
    if with_keys:
        entries = client.pages("GET", "/admin/v1/enrollments/export")
    else:
        entries = client.pages("POST", "/enrollments/query", body={"query": "SELECT *"})
    write = _write_csv if chosen == "csv" else _write_json_lines
    if file == "-":
        write(sys.stdout, entries, with_keys=with_keys)
        sys.stdout.flush()  # at exit would be too late to say that the disk is full
        return
    try:
        with replacing_text(Path(file), 0o600 if with_keys else 0o644) as stream:
            count = write(stream, entries, with_keys=with_keys)
    except OSError as error:
        raise FailedError(f"Cannot write {file}: {error.strerror}") from None
    if invocation.as_json:
        show_json({"file": file, "enrollments": count, "keys": with_keys})
        return
    remark(f"{count:,} enrollments are in {file}.")
    if with_keys and Path(file).is_file():
        warn(f"{file} holds keys; only you can read it")


def _write_csv(stream: IO[str], entries: Iterable[dict[str, Any]], *, with_keys: bool) -> int:
    columns = [name for name in COLUMNS if with_keys or not name.endswith("Key")]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for entry in entries:
        row = _row(entry)
        writer.writerow([row[name] for name in columns])
        count += 1
    return count


def _row(entry: dict[str, Any]) -> dict[str, str]:
    keys = (entry.get("attestation") or {}).get("symmetricKey") or {}
    twin = entry.get("initialTwin") or {}
    hubs = entry.get("iotHubs") or filter(None, [entry.get("iotHubHostName")])
    values = {
        "registrationId": entry.get("registrationId"),
        "deviceId": entry.get("deviceId"),
        "primaryKey": keys.get("primaryKey"),
        "secondaryKey": keys.get("secondaryKey"),
        "iotEdge": "true" if is_edge(entry) else "false",
        "provisioningStatus": entry.get("provisioningStatus", "enabled"),
        "allocationPolicy": entry.get("allocationPolicy"),
        "iotHubs": ";".join(hubs),
        "reprovisionPolicy": reprovision_name(entry.get("reprovisionPolicy")),
        "tags": _document(twin.get("tags")),
        "desired": _document((twin.get("properties") or {}).get("desired")),
    }
    return {name: str(value or "") for name, value in values.items()}


def _document(document: dict[str, Any] | None) -> str:
    return to_json(document, indent=None) if document else ""


def _write_json_lines(
    stream: IO[str], entries: Iterable[dict[str, Any]], *, with_keys: bool
) -> int:
    count = 0
    for entry in entries:
        whole = {name: value for name, value in entry.items() if name not in READ_ONLY}
        attestation = whole.get("attestation") or {}
        if not with_keys and "symmetricKey" in attestation:
            whole["attestation"] = {**attestation, "symmetricKey": {}}
        stream.write(to_json(whole, indent=None) + "\n")
        count += 1
    return count
