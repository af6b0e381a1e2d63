"""Enrollments as operators write them: who may register, how they prove it, what they get.

Field names and meanings are those of dps.md 3.2; the JSON is the same in the REST API, in the
database and in exports, so there is one declaration of each field.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]

ENABLED: Final = "enabled"
DISABLED: Final = "disabled"
SYMMETRIC_KEY: Final = "symmetricKey"

ATTESTATION_TYPES: Final = ("none", "tpm", "x509", SYMMETRIC_KEY)
"""What a mechanism may be called; which ones work is `provisioning.attestation.BUILT_IN`."""


class SymmetricKeyAttestation(msgspec.Struct, rename="camel", omit_defaults=True):
    """The two keys, base64; absent where they are hidden."""

    primary_key: str | None = None
    secondary_key: str | None = None

    def __repr__(self) -> str:
        return "SymmetricKeyAttestation(***)"


class AttestationMechanism(msgspec.Struct, rename="camel", omit_defaults=True):
    """How a device proves itself; exactly the part named by `type` is there."""

    type: str
    symmetric_key: SymmetricKeyAttestation | None = None
    tpm: JsonObject | None = None
    x509: JsonObject | None = None


class Capabilities(msgspec.Struct, rename="camel"):
    """What the device will be in its hub."""

    iot_edge: bool = False


class ReprovisionPolicy(msgspec.Struct, rename="camel"):
    """What happens when the device registers again and another hub is chosen (dps.md 4.4)."""

    update_hub_assignment: bool
    migrate_device_data: bool


class TwinProperties(msgspec.Struct, omit_defaults=True):
    """The only section an operator may give a device in advance."""

    desired: JsonObject | None = None


class InitialTwin(msgspec.Struct, omit_defaults=True):
    """Tags and desired properties of a device at its first assignment, stored as given."""

    tags: JsonObject | None = None
    properties: TwinProperties | None = None

    @property
    def desired(self) -> JsonObject:
        """The desired properties, empty when there are none."""
        return (self.properties and self.properties.desired) or {}


class CustomAllocationDefinition(msgspec.Struct, rename="camel"):
    """The webhook of the custom allocation policy."""

    webhook_url: str
    api_version: str


class Entry(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What individual enrollments and enrollment groups have in common.

    An absent `reprovision_policy` is not the same as the default one: devices that speak an old
    API version stay on their hub then (dps.md 4.4), so what was left out stays left out.
    """

    attestation: AttestationMechanism
    capabilities: Capabilities | None = None
    iot_hub_host_name: str | None = None
    initial_twin: InitialTwin | None = None
    etag: str | None = None
    provisioning_status: str | None = None
    reprovision_policy: ReprovisionPolicy | None = None
    created_date_time_utc: datetime | None = None
    last_updated_date_time_utc: datetime | None = None
    allocation_policy: str | None = None
    iot_hubs: list[str] | None = None
    custom_allocation_definition: CustomAllocationDefinition | None = None
    credential_policy_name: str | None = None

    @property
    def entry_id(self) -> str:
        """The registration ID or enrollment group ID."""
        raise TypeError("an entry is an individual enrollment or an enrollment group")

    @property
    def enabled(self) -> bool:
        """Whether devices may register through it."""
        return self.provisioning_status != DISABLED

    @property
    def iot_edge(self) -> bool:
        """Whether its devices are IoT Edge devices."""
        return self.capabilities is not None and self.capabilities.iot_edge


class IndividualEnrollment(Entry, kw_only=True):
    """One device that may register."""

    registration_id: str
    device_id: str | None = None
    optional_device_information: JsonObject | None = None

    @property
    def entry_id(self) -> str:
        """The registration ID."""
        return self.registration_id


class EnrollmentGroup(Entry, kw_only=True):
    """Devices that may register with keys derived from the group's."""

    enrollment_group_id: str

    @property
    def entry_id(self) -> str:
        """The enrollment group ID."""
        return self.enrollment_group_id
