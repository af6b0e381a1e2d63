"""The service REST surfaces (dps.md 3, hub-service.md 1) as a plain caller uses them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from support.https import Reply, request
from support.secrets import new_key, parse_connection_string, token

if TYPE_CHECKING:
    from pathlib import Path

    from support.run import Place

Json = dict[str, Any]


class Service:
    """Signed calls with one policy."""

    def __init__(
        self, place: Place, ca_file: Path, connection_string: str, api_version: str
    ) -> None:
        parts = parse_connection_string(connection_string)
        self._place = place
        self._ca_file = ca_file
        self.host_name = parts["HostName"]
        self.host = self.host_name.partition(":")[0]
        self.key_name = parts["SharedAccessKeyName"]
        self.key = parts["SharedAccessKey"]
        self.api_version = api_version

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        if_match: str | None = None,
        headers: dict[str, str] | None = None,
        authorization: str | None = None,
        api_version: str | None = None,
    ) -> Reply:
        """Call `path`; `body` goes as JSON, or as it is when bytes."""
        version = f"api-version={api_version or self.api_version}"
        url = f"{path}{'&' if '?' in path else '?'}{version}"
        all_headers = {
            "Authorization": authorization
            or token(self.host_name, self.key, key_name=self.key_name),
            "Content-Type": "application/json; charset=utf-8",
        }
        if if_match is not None:
            all_headers["If-Match"] = if_match
        all_headers |= headers or {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return request(
            self._place,
            self._ca_file,
            method,
            url,
            host=self.host,
            headers={name: value for name, value in all_headers.items() if value},
            body=data if data is not None or method == "GET" else b"",
        )

    def must(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call and insist on success; return the parsed body, None when there is none."""
        reply = self.call(method, path, body, **options)
        assert reply.status in (200, 201, 204), f"{method} {path}: {reply.status} {reply.body!r}"
        return reply.json if reply.body else None

    # The shortcuts that most tests begin with.

    def enroll(
        self, registration_id: str, primary: str | None = None, **fields: Any
    ) -> tuple[str, str]:
        """Create an individual enrollment and return its two keys."""
        keys = (primary or new_key(), new_key())
        entry = {"registrationId": registration_id, "attestation": attestation(*keys), **fields}
        self.must("PUT", f"/enrollments/{segment(registration_id)}", entry)
        return keys

    def enroll_group(self, group_id: str, **fields: Any) -> tuple[str, str]:
        """Create an enrollment group and return its two keys."""
        keys = (new_key(64), new_key(64))
        entry = {"enrollmentGroupId": group_id, "attestation": attestation(*keys), **fields}
        self.must("PUT", f"/enrollmentGroups/{segment(group_id)}", entry)
        return keys

    def create_device(self, device_id: str, **fields: Any) -> tuple[str, str]:
        """Create a device identity in a hub and return its two keys."""
        keys = (new_key(), new_key())
        body = {"deviceId": device_id, "authentication": authentication(*keys), **fields}
        self.must("PUT", f"/devices/{segment(device_id)}", body)
        return keys

    def create_module(self, device_id: str, module_id: str) -> tuple[str, str]:
        """Create a module identity and return its two keys."""
        keys = (new_key(), new_key())
        body = {
            "deviceId": device_id,
            "moduleId": module_id,
            "authentication": authentication(*keys),
        }
        path = f"/devices/{segment(device_id)}/modules/{segment(module_id)}"
        self.must("PUT", path, body)
        return keys

    def send_message(self, device_id: str, body: bytes, module_id: str = "", **fields: Any) -> None:
        """Send a cloud-to-device message; `fields` are members of its JSON."""
        self.must(
            "POST",
            message_path(device_id, module_id),
            {"body": base64.b64encode(body).decode(), **fields},
        )

    def message_count(self, device_id: str) -> int:
        """Return how many cloud-to-device messages wait for a device."""
        found = self.must("GET", f"/devices/{segment(device_id)}")["cloudToDeviceMessageCount"]
        assert isinstance(found, int)
        return found


def message_path(device_id: str, module_id: str = "") -> str:
    """Where messages for a device or module are sent."""
    path = f"/admin/v1/messages/{segment(device_id)}"
    return f"{path}/modules/{segment(module_id)}" if module_id else path


def segment(text: str) -> str:
    """Encode an id for a path."""
    return quote(text, safe="")


def attestation(primary: str, secondary: str) -> Json:
    """The symmetric-key attestation of an enrollment."""
    keys = {"primaryKey": primary, "secondaryKey": secondary}
    return {"type": "symmetricKey", "symmetricKey": keys}


def authentication(primary: str, secondary: str) -> Json:
    """The SAS authentication of a hub identity."""
    return {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}
