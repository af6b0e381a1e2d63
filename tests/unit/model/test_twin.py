"""Twins, against a plain second formulation of their rules."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from muster.clock import format_time
from muster.errors import InvalidArgumentError
from muster.model import twin as twins
from muster.model.merge_patches import merge
from muster.model.twin import JsonObject, Twin

START = dt.datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=dt.UTC)
NOW = START + dt.timedelta(hours=1)
NEVER = "0001-01-01T00:00:00Z"
EMPTY = twins.new(None, None, START)

keys = st.sampled_from(["a", "b", "c", "dd", "Ü", "#", "x/y"])
scalars = (
    st.booleans()
    | st.integers(twins.MIN_INTEGER, twins.MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
in_arrays = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
arrays = st.lists(in_arrays, max_size=3)
documents = st.dictionaries(
    keys,
    st.recursive(
        scalars | arrays, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)
patches = st.dictionaries(
    keys,
    st.recursive(
        st.none() | scalars | arrays,
        lambda inner: st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
noise = st.fixed_dictionaries(
    {}, optional={"$version": st.integers() | st.none(), "$metadata": st.just({"$x": {".": None}})}
)


# The second formulation.


def rfc7396(target: Any, patch: Any) -> Any:
    """The algorithm as RFC 7396 section 2 prints it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = rfc7396(result.get(name), value)
    return result


def nodes(document: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of everything that has a place in `$metadata`."""
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += nodes(value, (*path, key))
    return found


def is_written(patch: Any, path: tuple[str, ...]) -> bool:
    """Whether the patch touches the node that afterwards is at that path."""
    for key in path:
        if key not in patch:
            return False
        patch = patch[key]
    return True


def marks(metadata: JsonObject, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], JsonObject]:
    """`$metadata` as a flat map: path to its `$` members."""
    found = {path: {key: value for key, value in metadata.items() if key.startswith("$")}}
    for key, value in metadata.items():
        if not key.startswith("$"):
            found |= marks(value, (*path, key))
    return found


def plain_size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(key.encode()) + plain_size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(plain_size, value))
    if isinstance(value, str):
        return sum(1 for c in value if not (c < " " or "\x7f" <= c <= "\x9f"))
    return 0 if value is None else 4 if isinstance(value, bool) else 8


class TwinRules(RuleBasedStateMachine):
    """Any sequence of writes keeps implementation and formulation together."""

    @initialize(tags=st.none() | documents, desired=st.none() | documents)
    def create(self, tags: JsonObject | None, desired: JsonObject | None) -> None:
        self.now = START
        self.twin = twins.new(tags, desired, START)
        self.tags, self.desired, self.reported = tags or {}, desired or {}, {}
        self.version, self.etag, self.desired_version, self.reported_version = 2, 1, 1, 1
        never = {"$lastUpdated": NEVER}
        first = {"$lastUpdated": format_time(START), "$lastUpdatedVersion": 1}
        self.desired_marks = dict.fromkeys(nodes(self.desired), first) if desired else {(): never}
        self.reported_marks = {(): never}

    def stamp(self) -> JsonObject:
        return {"$lastUpdated": format_time(self.now)}

    def apply(self, function: Any, change: JsonObject) -> None:
        self.now += dt.timedelta(seconds=1.5)
        before, change_before = copy.deepcopy((self.twin, change))
        after = function(self.twin, change, self.now)
        assert (self.twin, change) == (before, change_before), "inputs must not change"
        self.twin = after
        self.version += 1

    @rule(patch=patches, noise=noise)
    def patch_tags(self, patch: JsonObject, noise: JsonObject) -> None:
        self.apply(twins.patch_tags, patch | noise)
        self.tags = rfc7396(self.tags, patch)
        self.etag += 1

    @rule(document=patches, noise=noise)
    def replace_tags(self, document: JsonObject, noise: JsonObject) -> None:
        self.apply(twins.replace_tags, document | noise)
        self.tags = rfc7396({}, document)
        self.etag += 1

    @rule(patch=patches, noise=noise)
    def patch_desired(self, patch: JsonObject, noise: JsonObject) -> None:
        self.apply(twins.patch_desired, noise | patch)
        self.desired = rfc7396(self.desired, patch)
        self.etag += 1
        self.desired_version += 1
        stamp = self.stamp() | {"$lastUpdatedVersion": self.desired_version}
        self.desired_marks = {
            path: stamp if is_written(patch, path) else self.desired_marks[path]
            for path in nodes(self.desired)
        }

    @rule(document=patches, noise=noise)
    def replace_desired(self, document: JsonObject, noise: JsonObject) -> None:
        self.apply(twins.replace_desired, noise | document)
        self.desired = rfc7396({}, document)
        self.etag += 1
        self.desired_version += 1
        stamp = self.stamp() | {"$lastUpdatedVersion": self.desired_version}
        self.desired_marks = dict.fromkeys(nodes(self.desired), stamp)

    @rule(patch=patches, noise=noise)
    def patch_reported(self, patch: JsonObject, noise: JsonObject) -> None:
        self.apply(twins.patch_reported, noise | patch)
        self.reported = rfc7396(self.reported, patch)
        self.reported_version += 1
        self.reported_marks = {
            path: self.stamp() if is_written(patch, path) else self.reported_marks[path]
            for path in nodes(self.reported)
        }

    @invariant()
    def same_content(self) -> None:
        assert self.twin.tags == self.tags
        assert self.twin.desired.properties == self.desired
        assert self.twin.reported.properties == self.reported

    @invariant()
    def same_counters(self) -> None:
        twin = self.twin
        assert (twin.version, twin.etag_counter) == (self.version, self.etag)
        assert twin.desired.version == self.desired_version
        assert twin.reported.version == self.reported_version

    @invariant()
    def same_metadata(self) -> None:
        assert marks(self.twin.desired.metadata) == self.desired_marks
        assert marks(self.twin.reported.metadata) == self.reported_marks

    @invariant()
    def survives_storage(self) -> None:
        stored = msgspec.json.encode(self.twin)
        assert msgspec.json.decode(stored, type=Twin) == self.twin


TwinRules.TestCase.settings = settings(
    # How fast documents are drawn depends on what else the machine does.
    max_examples=25,
    stateful_step_count=10,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTwinRules = TwinRules.TestCase


@settings(max_examples=60)
@given(documents, patches)
def test_merge_is_rfc_7396(document: JsonObject, patch: JsonObject) -> None:
    before = copy.deepcopy((document, patch))
    assert merge(document, patch) == rfc7396(document, patch)
    assert (document, patch) == before


@settings(max_examples=60)
@given(documents | patches)
def test_size_by_the_book(document: JsonObject) -> None:
    assert twins.size(document) == plain_size(document)


# Views.


def test_new_twin() -> None:
    assert EMPTY.etag == "AAAAAAAAAAE="
    assert (EMPTY.version, EMPTY.tags) == (2, {})
    section = {"$metadata": {"$lastUpdated": NEVER}, "$version": 1}
    assert twins.service_view(EMPTY) == {"desired": section, "reported": section}
    assert twins.device_view(EMPTY) == {"desired": {"$version": 1}, "reported": {"$version": 1}}


def test_new_twin_with_content_from_an_enrollment() -> None:
    twin = twins.new({"site": "A"}, {"n": {"i": 1}, "gone": None, "$version": 9}, START)
    mark = {"$lastUpdated": "2026-03-01T12:00:00.25Z", "$lastUpdatedVersion": 1}
    assert twin.tags == {"site": "A"}
    assert (twin.version, twin.etag) == (2, "AAAAAAAAAAE=")
    assert twins.service_view(twin)["desired"] == {
        "n": {"i": 1},
        "$metadata": {**mark, "n": {**mark, "i": mark}},
        "$version": 1,
    }


def test_etag_counts_service_writes_only() -> None:
    twin = twins.patch_reported(EMPTY, {"a": 1}, NOW)
    assert (twin.version, twin.etag) == (3, EMPTY.etag)
    twin = twins.update(twin, NOW, tags={"a": 1}, desired={"b": 1})
    assert (twin.version, twin.etag) == (4, "AAAAAAAAAAI=")
    for _ in range(5):
        twin = twins.patch_tags(twin, {}, NOW)
    assert twin.etag == "AAAAAAAAAAc="


def test_put_in_one_call() -> None:
    twin = twins.update(EMPTY, NOW, tags={"a": 1, "b": 1}, desired={"c": 1, "d": 1})
    twin = twins.update(twin, NOW, tags={"b": 2}, desired={}, replace=True)
    assert (twin.tags, twin.desired.properties) == ({"b": 2}, {})
    assert (twin.version, twin.desired.version) == (4, 3)
    twin = twins.update(twin, NOW, desired={"e": 1}, replace=True)
    assert twin.tags == {"b": 2}, "what is not given stays"


def test_nothing_to_write() -> None:
    assert twins.update(EMPTY, NOW) is EMPTY
    assert twins.update(EMPTY, NOW, replace=True) is EMPTY


def test_views_of_a_used_twin() -> None:
    twin = twins.patch_desired(EMPTY, {"x": [1, {"y": 2}]}, NOW)
    twin = twins.patch_reported(twin, {"r": {"s": "t"}}, NOW)
    at = {"$lastUpdated": "2026-03-01T13:00:00.25Z"}
    mark = at | {"$lastUpdatedVersion": 2}
    assert twins.service_view(twin) == {
        "desired": {"x": [1, {"y": 2}], "$metadata": {**mark, "x": mark}, "$version": 2},
        "reported": {
            "r": {"s": "t"},
            "$metadata": {**at, "r": {**at, "s": at}},
            "$version": 2,
        },
    }
    assert twins.device_view(twin) == {
        "desired": {"x": [1, {"y": 2}], "$version": 2},
        "reported": {"r": {"s": "t"}, "$version": 2},
    }


def test_notification_carries_nulls_and_version() -> None:
    patch = {"a": 2, "gone": None, "$version": 1, "$metadata": {}}
    assert twins.desired_patch_for_device(patch, 7) == {"a": 2, "gone": None, "$version": 7}
    assert patch["$version"] == 1


def test_what_tools_send_back_is_taken() -> None:
    twin = twins.update(EMPTY, NOW, tags={"t": 1}, desired={"a": {"b": 1}})
    view = twins.service_view(twin)
    again = twins.update(twin, NOW, tags=dict(twin.tags), desired=view["desired"])
    assert again.desired.properties == twin.desired.properties
    assert again.desired.version == twin.desired.version + 1


def test_deleting_what_is_not_there_counts() -> None:
    twin = twins.patch_desired(EMPTY, {"a": None, "b": {"c": None}}, NOW)
    assert twin.desired.properties == {"b": {}}
    assert twin.desired.version == 2


# Limits.

WRITES = {
    "tags": twins.patch_tags,
    "desired": twins.patch_desired,
    "reported": twins.patch_reported,
}


def refusal(document: Any, section: twins.Section = "reported") -> InvalidArgumentError:
    """Refused by check_limits and by the write, with the same words and nothing changed."""
    with pytest.raises(InvalidArgumentError) as caught:
        twins.check_limits(document, section)
    with pytest.raises(InvalidArgumentError) as caught_too:
        WRITES[section](EMPTY, document, NOW)
    assert (caught.value.code, caught.value.message) == (
        caught_too.value.code,
        caught_too.value.message,
    )
    assert section in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "key",
    [
        *("", " ", "a b", "a.b", "$a", "a$", "$lastUpdated"),
        *("\n", "\x00", "\x7f", "\x85", "a" * 1025, "Ü" * 513, "\ud800"),
    ],
)
@pytest.mark.parametrize("place", ["{}", '{"n": {}}', '{"n": [1, [{}]]}'])
def test_keys(key: str, place: str) -> None:
    document = json.loads(place, object_hook=lambda found: found or {"fine": 1, key: 1})
    error = refusal(document)
    assert error.code == ("invalid-twin-value" if key == "\ud800" else "invalid-twin-key")
    error.message.encode()


@pytest.mark.parametrize("name", ["$version", "$metadata"])
def test_service_members_only_at_the_top(name: str) -> None:
    assert refusal({"a": {name: 1}}).code == "invalid-twin-key"
    assert refusal({"a": [{name: 1}]}).code == "invalid-twin-key"


@pytest.mark.parametrize("key", ["a" * 1024, "Ü" * 512, "/", "#", "a/b", "-_:@", "\N{SNOWMAN}"])
def test_fine_keys(key: str) -> None:
    assert twins.patch_reported(EMPTY, {key: 1}, NOW).reported.properties == {key: 1}


def nested(levels: int, *, with_array: bool = False) -> JsonObject:
    document: Any = [1] if with_array else {"leaf": 1}
    for _ in range(levels - 1):
        document = {"n": document}
    return {"n": document}


@pytest.mark.parametrize("with_array", [False, True])
@pytest.mark.parametrize("section", ["tags", "desired", "reported"])
def test_depth(section: twins.Section, with_array: bool) -> None:  # noqa: FBT001
    twins.check_limits(nested(10, with_array=with_array), section)
    error = refusal(nested(11, with_array=with_array), section)
    assert error.code == "twin-too-deep"
    assert "10" in error.message


@pytest.mark.parametrize("opening", ['{"n":', '{"n":[', '{"n":null,"m":'])
def test_hostile_depth_costs_nothing(opening: str) -> None:
    document: Any = {}
    for _ in range(100_000):
        document = [document] if opening.endswith("[") else {"n": document}
    assert refusal({"n": document}).code == "twin-too-deep"
    assert refusal({"n": [document]}).code == "twin-too-deep"


def test_merge_and_size_survive_any_depth() -> None:
    patch: JsonObject = {}
    for _ in range(100_000):
        patch = {"n": patch}
    merged = merge({"n": 1}, patch)
    assert twins.size(merged) == 100_000
    for document in (merged, patch):  # freed level by level, so that the test ends quietly
        inner = document
        while inner:
            inner = inner.pop("n")


@pytest.mark.parametrize("value", ["a" * 4097, "Ü" * 2049, "\N{GRINNING FACE}" * 1025])
@pytest.mark.parametrize("in_array", [False, True])
def test_long_strings(value: str, in_array: bool) -> None:  # noqa: FBT001
    error = refusal({"a": [value] if in_array else value})
    assert error.code == "twin-value-too-long"
    assert "4096" in error.message


def test_strings_at_the_limit() -> None:
    twins.check_limits({"a": "a" * 4096, "b": "Ü" * 2048, "c": "\x00" * 4096}, "tags")


def test_half_a_surrogate_pair() -> None:
    assert refusal({"a": "\ud800"}).code == "invalid-twin-value"


@pytest.mark.parametrize(
    "number", [2**52, -(2**52) - 1, 2**64, -(2**80), float("inf"), float("-inf"), float("nan")]
)
@pytest.mark.parametrize("in_array", [False, True])
def test_numbers_out_of_range(number: float, in_array: bool) -> None:  # noqa: FBT001
    error = refusal({"a": {"b": [number] if in_array else number}})
    assert error.code == "twin-number-range"
    assert "-4503599627370496 to 4503599627370495" in error.message


@pytest.mark.parametrize("number", [2**52 - 1, -(2**52), 0, 1e300, -1e-300, 2.0**60, True])
def test_numbers_in_range(number: float) -> None:
    stored = twins.patch_reported(EMPTY, {"a": number}, NOW).reported.properties["a"]
    assert stored == number
    assert type(stored) is type(number)


@pytest.mark.parametrize("value", [[None], [1, [None]], [{"a": None}], {"b": [{"c": [None]}]}])
def test_null_in_arrays(value: object) -> None:
    error = refusal({"a": value})
    assert error.code == "invalid-twin-value"
    assert "null inside an array" in error.message


@pytest.mark.parametrize("value", [b"x", (1,), {1}, START])
def test_what_json_cannot_carry(value: object) -> None:
    assert refusal({"a": value}).code == "invalid-twin-value"


@pytest.mark.parametrize("document", [[], 1, "x", None, True])
def test_section_that_is_no_object(document: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        twins.check_limits(document, "desired")
    assert caught.value.code == "invalid-twin-value"


@pytest.mark.parametrize(("section", "limit"), [("tags", 8192), ("desired", 32768)])
def test_size_limit(section: twins.Section, limit: int) -> None:
    fill = {f"k{i:03}": "v" * 4000 for i in range(limit // 4004)}
    left = limit - twins.size(fill)
    exact = fill | {"last": "x" * (left - 4)}
    assert twins.size(exact) == limit
    twins.check_limits(exact, section)
    assert refusal(exact | {"last": "x" * (left - 3)}, section).code == "twin-too-large"
    assert refusal(exact | {"b": True}, section).message.endswith(f"than the {limit} allowed")


def test_size_counts_after_the_merge() -> None:
    big = {f"k{i}": "v" * 4000 for i in range(8)}
    twin = twins.patch_reported(EMPTY, big, NOW)
    with pytest.raises(InvalidArgumentError) as caught:
        twins.patch_reported(twin, {"more": "v" * 4000}, NOW)
    assert caught.value.code == "twin-too-large"
    twin = twins.patch_reported(twin, {"more": "v" * 4000, "k0": None}, NOW)
    assert len(twin.reported.properties) == 8
    assert twins.replace_desired(twin, big, NOW).desired.version == 2


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=4),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=10,
        ),
        max_size=4,
    )
)
def test_any_json_object_is_stored_or_refused(document: JsonObject) -> None:
    try:
        twin = twins.patch_desired(EMPTY, document, NOW)
    except InvalidArgumentError:
        return
    assert twin.desired.properties == rfc7396({}, document)
