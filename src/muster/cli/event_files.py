"""Events in files that people analyse: JSON Lines and Parquet."""

from __future__ import annotations

from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, final

from muster.cli.event_stream import body_text
from muster.cli.failures import FailedError
from muster.terminal.output import printable_json

if TYPE_CHECKING:
    from muster.cli.event_stream import Event

_ROWS: Final = 20_000
"""Events of one row group: enough for good compression, little enough for memory."""


class EventWriter(Protocol):
    """Writes events one after the other."""

    def write(self, event: Event) -> None:
        """Take one."""

    def close(self) -> None:
        """Write what is left."""


@final
class JsonLinesWriter:
    """An event a line, exactly as the service sent it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        """Take one."""
        self._stream.write(printable_json(event.line).encode() + b"\n")

    def close(self) -> None:
        """Write what is left."""


@final
class ParquetWriter:
    """A row an event, compressed; times are UTC, bodies are text, properties are maps.

    Raises:
        FailedError: the library for it is not installed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
            from pyarrow import parquet  # noqa: PLC0415 - an extra
        except ImportError:
            raise FailedError(
                "Parquet needs a library that is not installed",
                next_step="pip install 'muster-iot[parquet]', or --format jsonl",
            ) from None
        self._arrow: Any = pa
        text = pa.string()
        self._schema = pa.schema(
            [
                ("enqueued_time", pa.timestamp("us", tz="UTC")),
                ("device_id", text),
                ("module_id", text),
                ("source", text),
                ("partition", pa.int32()),
                ("sequence_number", pa.int64()),
                ("offset", pa.int64()),
                ("properties", pa.map_(text, text)),
                ("system_properties", pa.map_(text, text)),
                ("body", text),
                ("body_encoding", text),
            ]
        )
        self._writer = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, event: Event) -> None:
        """Take one."""
        self._rows.append(
            {
                "enqueued_time": datetime.fromisoformat(event.enqueued_time),
                "device_id": event.device_id,
                "module_id": event.module_id,
                "source": event.source,
                "partition": event.partition,
                "sequence_number": event.sequence_number,
                "offset": event.offset,
                "properties": list(event.properties.items()),
                "system_properties": list(event.system_properties.items()),
                "body": body_text(event),
                "body_encoding": event.body_encoding,
            }
        )
        if len(self._rows) >= _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
            self._rows = []
