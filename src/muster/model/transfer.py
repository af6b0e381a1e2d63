"""Imports and exports of identities: jobs of `/jobs` (hub-service.md 1.3, 1.8)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from muster.model.identity import Authentication, Capabilities
from muster.model.job import JobType

DEVICES_FILE: Final = "devices.txt"
ERRORS_FILE: Final = "importErrors.log"
TRANSFER_TYPES: Final = (JobType.EXPORT, JobType.IMPORT)
"""Types of `/jobs`."""


class TransferRequest(Struct, rename="camel", kw_only=True):
    """The body of a POST that creates one (`JobProperties`)."""

    type: str
    input_blob_container_uri: str | None = None
    input_blob_name: str | None = None
    output_blob_container_uri: str | None = None
    output_blob_name: str | None = None
    exclude_keys_in_export: bool | None = None
    include_configurations: bool | None = None


class Transfer(Struct, kw_only=True):
    """What such a job is to do, as it is stored.

    Attributes:
        source: name of the blob that is imported, '' for an export.
        target: name of the blob that is exported to, or that the errors go to.
        without_keys: whether an export leaves them out.
    """

    source: str = ""
    target: str
    without_keys: bool = False


class ExportedProperties(Struct):
    """Properties of a twin, metadata included."""

    desired: dict[str, Any]
    reported: dict[str, Any]


class ExportedIdentity(Struct, rename="camel", kw_only=True):
    """One line of an export (ExportImportDevice, hub-service.md 1.3)."""

    id: str
    module_id: str | UnsetType = UNSET
    e_tag: str
    status: str | UnsetType = UNSET
    status_reason: str | UnsetType | None = UNSET
    managed_by: str | UnsetType | None = UNSET
    authentication: Authentication
    twin_e_tag: str = msgspec.field(name="twinETag")
    tags: dict[str, Any]
    properties: ExportedProperties
    capabilities: Capabilities | UnsetType = UNSET
    device_scope: str | UnsetType = UNSET
    parent_scopes: list[str] | UnsetType = UNSET


class ImportFailure(Struct, rename="camel"):
    """One line of the errors of an import."""

    device_id: str
    module_id: str | None
    error_code: str
    error_status: str


encode_transfer: Final = msgspec.json.Encoder().encode
decode_transfer: Final = msgspec.json.Decoder(Transfer).decode
