"""Rows of enrollment files, and a service that takes them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from muster.cli.import_fields import COLUMNS
from unit.cli.cli_service import KEY, WRONG_KEY, Call

IMPORT = ("POST", "/admin/v1/enrollments/import")
ROW = {
    "registrationId": "gateway-01",
    "deviceId": "gw",
    "primaryKey": KEY,
    "secondaryKey": WRONG_KEY,
    "iotEdge": "True",
    "provisioningStatus": "Disabled",
    "allocationPolicy": "STATIC",
    "iotHubs": "plant-a; plant-b;",
    "reprovisionPolicy": "reprovisionAndResetData",
    "tags": '{"site": "a, b"}',
    "desired": '{"interval": 30}',
}
ENTRY: dict[str, Any] = {
    "registrationId": "gateway-01",
    "attestation": {
        "type": "symmetricKey",
        "symmetricKey": {"primaryKey": KEY, "secondaryKey": WRONG_KEY},
    },
    "deviceId": "gw",
    "capabilities": {"iotEdge": True},
    "provisioningStatus": "disabled",
    "allocationPolicy": "static",
    "iotHubs": ["plant-a", "plant-b"],
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False},
    "initialTwin": {"tags": {"site": "a, b"}, "properties": {"desired": {"interval": 30}}},
}


def accept(call: Call) -> Any:
    return {
        "results": [
            {"registrationId": each["registrationId"], "ok": True}
            for each in call.body["enrollments"]
        ]
    }


def accept_but(*refused: str) -> Any:
    def answer(call: Call) -> Any:
        found = accept(call)
        for each in found["results"]:
            if each["registrationId"] in refused:
                each.update(ok=False, errorCode=409201, error="Enrollment already exists.")
        return found

    return answer


def write_csv(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def ids(path: Path, count: int) -> str:
    rows = ({"registrationId": f"d{number:05}"} for number in range(count))
    return write_csv(path, *rows, columns=("registrationId",))
