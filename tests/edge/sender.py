"""A module that sends numbered messages, each when the one before was accepted.

Of each five, one goes to the output `urgent`, the others to `up`. What it does it notes in files of
the directory `LEDGER`, each line a number: `tried` before a message is sent for the first time,
`again` before another time, `accepted` when the device has acknowledged it. It goes on where it
was after a restart, with a number it has never tried. When there is a file `stop` it sends no
more, and says so with a file `stopped`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azure.iot.device import IoTHubModuleClient, Message

if TYPE_CHECKING:
    from collections.abc import Callable

LEDGER: Final = Path(os.environ["LEDGER"])
PAUSE_S: Final = 0.04


def note(name: str, number: int) -> None:
    with (LEDGER / name).open("a") as file:
        file.write(f"{number}\n")


def client(make: Callable[[], Any]) -> Any:
    """Return a connected client; the device may be starting."""
    while True:
        made = None
        try:
            made = make()
            made.connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            print(f"no connection: {error!r}", flush=True)
            if made is not None:
                with contextlib.suppress(Exception):
                    made.shutdown()
            time.sleep(0.5)
        else:
            return made


def run(make: Callable[[], Any], send: Callable[[Any, Message, str], None]) -> None:
    """Send until there is a file `stop`.

    Args:
        make: makes a client of the SDK.
        send: has one send a message, urgent or not, to an output where it has some.
    """
    tried = LEDGER / "tried"
    number = int(tried.read_text().split()[-1]) if tried.exists() else 0
    connected = client(make)
    while not (LEDGER / "stop").exists():
        number += 1
        note("tried", number)
        while True:
            message = Message(json.dumps(number))
            output = "urgent" if number % 5 == 0 else "up"
            try:
                send(connected, message, output)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                print(f"not sent: {error!r}", flush=True)
                note("again", number)
                time.sleep(0.2)
            else:
                break
        note("accepted", number)
        time.sleep(PAUSE_S)
    (LEDGER / "stopped").touch()
    time.sleep(3600)


def main() -> None:
    run(
        lambda: IoTHubModuleClient.create_from_edge_environment(connection_retry_interval=1),
        IoTHubModuleClient.send_message_to_output,
    )


if __name__ == "__main__":
    main()
