"""Twins: tags, desired and reported properties, and the rules every change of them obeys.

Pure functions: they take a twin and return another one, which shares what did not change. Nothing
that was passed in is ever changed, and what comes out is to be treated the same way. Sources:
hub-service.md 1.4, hub-device.md 6.

Three counters move (hub-device.md 6; recorded twins of real hubs agree: `version` is always the
sum of all writes, while the etag counts the service's only):

| write | section `$version` | `version` | etag |
|---|---|---|---|
| tags | | +1 | +1 |
| desired | +1 | +1 | +1 |
| tags and desired in one call | +1 | +1 | +1 |
| reported | +1 | +1 | |
"""

from __future__ import annotations

import base64
import math
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from muster.clock import NEVER, format_time
from muster.errors import InvalidArgumentError
from muster.model.merge_patches import merge

if TYPE_CHECKING:
    from datetime import datetime

JsonObject: TypeAlias = dict[str, Any]
"""A decoded JSON object."""
Section: TypeAlias = Literal["tags", "desired", "reported"]
"""The three documents of a twin."""

MAX_SIZE: Final[dict[Section, int]] = {
    "tags": 8 * 1024,
    "desired": 32 * 1024,
    "reported": 32 * 1024,
}
"""Limit of each section in the units of `size`."""
MAX_DEPTH: Final = 10
"""Objects and arrays inside each other, below the section itself."""
MAX_KEY_SIZE: Final = 1024
"""UTF-8 bytes."""
MAX_STRING_SIZE: Final = 4096
"""UTF-8 bytes."""
MIN_INTEGER: Final = -(2**52)
MAX_INTEGER: Final = 2**52 - 1

_FORBIDDEN_IN_KEY: Final = re.compile(r"[\x00-\x1f\x7f-\x9f .$]").search
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").sub
_OURS: Final = ("$metadata", "$version")
_NEVER: Final = format_time(NEVER)


class TwinSection(msgspec.Struct, frozen=True):
    """Desired or reported properties.

    Attributes:
        properties: the document, without any `$` members.
        metadata: what the service shows as `$metadata`: the same tree, with `$lastUpdated` (and,
            in desired, `$lastUpdatedVersion`) at every node. Arrays are leaves.
        version: what is shown as `$version`.
    """

    properties: JsonObject
    metadata: JsonObject
    version: int


class Twin(msgspec.Struct, frozen=True):
    """The whole twin of a device or module, without what belongs to its identity.

    Attributes:
        tags: for services only; the device never sees them.
        desired: what the device should be.
        reported: what the device says it is.
        version: counts every write.
        etag_counter: counts the writes of services.
    """

    tags: JsonObject
    desired: TwinSection
    reported: TwinSection
    version: int
    etag_counter: int

    @property
    def etag(self) -> str:
        """The etag as it stands in JSON: base64 of the 8-byte counter, `AAAAAAAAAAE=` at first."""
        return base64.b64encode(self.etag_counter.to_bytes(8)).decode()


def new(initial_tags: JsonObject | None, initial_desired: JsonObject | None, now: datetime) -> Twin:
    """Return the twin of an identity that has just been created.

    Args:
        initial_tags: from an enrollment or a bulk import, or `None`.
        initial_desired: likewise.
        now: the time shown for initial desired properties; a section that was never written
            shows `0001-01-01T00:00:00Z`.

    Raises:
        InvalidArgumentError: as `check_limits`.
    """
    empty = TwinSection({}, {"$lastUpdated": _NEVER}, 1)
    tags = _replaced_tags(initial_tags or {})
    desired = (
        _replaced(TwinSection({}, {}, 0), initial_desired, "desired", now)
        if initial_desired
        else empty
    )
    return Twin(tags, desired, empty, version=2, etag_counter=1)


def update(
    twin: Twin,
    now: datetime,
    *,
    tags: JsonObject | None = None,
    desired: JsonObject | None = None,
    replace: bool = False,
) -> Twin:
    """Apply one write of a service: a PATCH, or with `replace` a PUT.

    Args:
        twin: as it is.
        now: the time of the write.
        tags: what to merge into the tags or to put in their place; `None` leaves them alone.
        desired: the same for desired properties. `$metadata` and `$version`, which tools send
            back as they got them, are ignored in both.
        replace: whether the documents replace what is there. A PUT that lacks one clears it:
            pass `{}` for that.

    Returns:
        The changed twin; the same one when there is nothing to write.

    Raises:
        InvalidArgumentError: as `check_limits`; nothing is applied then.
    """
    if tags is None and desired is None:
        return twin
    tags_after, desired_after = twin.tags, twin.desired
    if tags is not None:
        tags_after = _replaced_tags(tags) if replace else _patched_tags(twin.tags, tags)
    if desired is not None:
        apply = _replaced if replace else _patched
        desired_after = apply(twin.desired, desired, "desired", now)
    return Twin(tags_after, desired_after, twin.reported, twin.version + 1, twin.etag_counter + 1)


def patch_tags(twin: Twin, patch: JsonObject, now: datetime) -> Twin:
    """Merge into the tags; see `update`."""
    return update(twin, now, tags=patch)


def patch_desired(twin: Twin, patch: JsonObject, now: datetime) -> Twin:
    """Merge into the desired properties; see `update`."""
    return update(twin, now, desired=patch)


def replace_tags(twin: Twin, document: JsonObject, now: datetime) -> Twin:
    """Put other tags in place; see `update`."""
    return update(twin, now, tags=document, replace=True)


def replace_desired(twin: Twin, document: JsonObject, now: datetime) -> Twin:
    """Put other desired properties in place; see `update`."""
    return update(twin, now, desired=document, replace=True)


def patch_reported(twin: Twin, patch: JsonObject, now: datetime) -> Twin:
    """Merge what a device reports. Its `$version` and `$metadata` members are ignored.

    Raises:
        InvalidArgumentError: as `check_limits`; nothing is applied then.
    """
    reported = _patched(twin.reported, patch, "reported", now)
    return Twin(twin.tags, twin.desired, reported, twin.version + 1, twin.etag_counter)


def service_view(twin: Twin) -> JsonObject:
    """Return `properties` as services see them: with `$metadata` and `$version`."""
    return {"desired": shown(twin.desired), "reported": shown(twin.reported)}


def shown(section: TwinSection) -> JsonObject:
    """Return desired or reported properties as services see them."""
    return {**section.properties, "$metadata": section.metadata, "$version": section.version}


def device_view(twin: Twin) -> JsonObject:
    """Return what a device gets for a twin GET: both sections with `$version`, no metadata."""
    return {
        "desired": {**twin.desired.properties, "$version": twin.desired.version},
        "reported": {**twin.reported.properties, "$version": twin.reported.version},
    }


def desired_patch_for_device(patch: JsonObject, version: int) -> JsonObject:
    """Return the body of the notification a device gets about its desired properties.

    Args:
        patch: what was written: the patch with its nulls, or the whole document of a PUT.
        version: the section's `$version` after the write.
    """
    return {**without_service_members(patch), "$version": version}


def without_service_members(document: JsonObject) -> JsonObject:
    """Return the document without the `$metadata` and `$version` that only the service writes."""
    if any(name in document for name in _OURS):
        return {key: value for key, value in document.items() if key not in _OURS}
    return document


def check_limits(document: JsonObject, section: Section) -> None:
    """Check a document that is to become, or be merged into, a section of a twin.

    Args:
        document: without `$metadata` and `$version`. Nulls (deletions) are fine, but not inside
            arrays.
        section: which one; decides the size limit and stands in the messages.

    Raises:
        InvalidArgumentError: codes `invalid-twin-key`, `twin-too-deep`,
            `twin-value-too-long`, `twin-number-range`, `invalid-twin-value`, `twin-too-large`.
    """
    check_values(document, section)
    check_size(document, section)


def check_values(document: JsonObject, section: Section) -> None:
    """Check everything but the size, which counts after a merge only; see `check_limits`."""
    if type(document) is not dict:
        raise InvalidArgumentError(f"{section} must be a JSON object", code="invalid-twin-value")
    containers: list[tuple[Any, int, bool]] = [(document, 0, False)]
    while containers:
        container, depth, in_array = containers.pop()
        if depth > MAX_DEPTH:
            raise InvalidArgumentError(
                f"{section} is nested deeper than {MAX_DEPTH} levels", code="twin-too-deep"
            )
        if type(container) is dict:
            _check_keys(container, section)
            values = container.values()
        else:
            in_array, values = True, container
        for value in values:
            kind = type(value)
            if kind is str:
                if len(value) > MAX_STRING_SIZE or not value.isascii():
                    _check_unusual_string(value, section)
            elif kind is dict or kind is list:
                containers.append((value, depth + 1, in_array))
            elif kind is not bool and not (kind is int and MIN_INTEGER <= value <= MAX_INTEGER):
                _check_unusual_value(value, in_array=in_array, section=section)


def check_size(document: JsonObject, section: Section) -> None:
    """Check the size of a whole section; see `check_limits`."""
    found = size(document)
    if found > MAX_SIZE[section]:
        raise InvalidArgumentError(
            f"{section} would be {found} bytes, more than the {MAX_SIZE[section]} allowed",
            code="twin-too-large",
        )


def size(document: JsonObject) -> int:
    """Return the size of a section as the service counts it (hub-device.md 6).

    UTF-8 bytes of all keys, characters of all strings without control characters, 8 for a
    number, 4 for a boolean, nothing for null.
    """
    total = 0
    containers: list[Any] = [document]
    while containers:
        container = containers.pop()
        if type(container) is dict:
            total += len("".join(container).encode(errors="surrogatepass"))
            values = container.values()
        else:
            values = container
        for value in values:
            kind = type(value)
            if kind is str:
                total += len(value) if value.isprintable() else len(_CONTROL("", value))
            elif kind is bool:
                total += 4
            elif kind is int or kind is float:
                total += 8
            elif kind is dict or kind is list:
                containers.append(value)
    return total


def _patched_tags(tags: JsonObject, patch: JsonObject) -> JsonObject:
    patch = without_service_members(patch)
    check_values(patch, "tags")
    merged = merge(tags, patch)
    check_size(merged, "tags")
    return merged


def _replaced_tags(document: JsonObject) -> JsonObject:
    return _patched_tags({}, document)


def _patched(
    before: TwinSection, patch: JsonObject, section: Section, now: datetime
) -> TwinSection:
    patch = without_service_members(patch)
    check_values(patch, section)
    version = before.version + 1
    stamp: JsonObject = {"$lastUpdated": format_time(now)}
    if section == "desired":
        stamp["$lastUpdatedVersion"] = version
    properties, metadata = dict(before.properties), {**before.metadata, **stamp}
    pending = [(properties, metadata, patch)]
    while pending:
        target, marks, changes = pending.pop()
        for key, value in changes.items():
            if value is None:
                target.pop(key, None)
                marks.pop(key, None)
            elif type(value) is dict:
                old = target.get(key)
                inner = dict(old) if type(old) is dict else {}
                inner_marks = {**marks.get(key, {}), **stamp}
                target[key] = inner
                marks[key] = inner_marks
                pending.append((inner, inner_marks, value))
            else:
                target[key] = value
                marks[key] = stamp
    check_size(properties, section)
    return TwinSection(properties, metadata, version)


def _replaced(
    before: TwinSection, document: JsonObject, section: Section, now: datetime
) -> TwinSection:
    return _patched(TwinSection({}, {}, before.version), document, section, now)


def _check_keys(document: JsonObject, section: Section) -> None:
    # All keys at once: only an object with something unusual in it is looked at key by key.
    together = "".join(document)
    if (
        len(together) <= MAX_KEY_SIZE
        and together.isascii()
        and not _FORBIDDEN_IN_KEY(together)
        and "" not in document
    ):
        return
    for key in document:
        if not key or _FORBIDDEN_IN_KEY(key):
            raise InvalidArgumentError(
                f"{section} has the key {key[:40]!a}: a key must not be empty and must not "
                "contain '.', '$', a space or control characters",
                code="invalid-twin-key",
            )
        if _utf8_size(key, section) > MAX_KEY_SIZE:
            raise InvalidArgumentError(
                f"{section} has a key longer than {MAX_KEY_SIZE} bytes: {key[:40]!a}",
                code="invalid-twin-key",
            )


def _check_unusual_string(text: str, section: Section) -> None:
    if _utf8_size(text, section) > MAX_STRING_SIZE:
        raise InvalidArgumentError(
            f"{section} has a string longer than {MAX_STRING_SIZE} bytes",
            code="twin-value-too-long",
        )


def _check_unusual_value(value: object, *, in_array: bool, section: Section) -> None:
    if value is None and not in_array:
        return
    if type(value) is int or (type(value) is float and not math.isfinite(value)):
        raise InvalidArgumentError(
            f"{section} has a number outside the range: whole numbers from {MIN_INTEGER} to "
            f"{MAX_INTEGER}, other numbers finite",
            code="twin-number-range",
        )
    if type(value) is not float:
        what = "a null inside an array" if value is None else "a value that is not JSON"
        raise InvalidArgumentError(f"{section} has {what}", code="invalid-twin-value")


def _utf8_size(text: str, section: Section) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON escapes can spell
        raise InvalidArgumentError(
            f"{section} has text that is not valid Unicode", code="invalid-twin-value"
        ) from None
