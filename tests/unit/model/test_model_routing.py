"""What routes, enrichments and endpoints may be."""

from __future__ import annotations

import pytest

from muster.errors import InvalidArgumentError
from muster.model.routing import (
    Enrichment,
    FileSettings,
    Route,
    WebhookSettings,
    check_endpoint,
    check_enrichment,
    check_route,
    twin_path,
)


@pytest.mark.parametrize(
    "route",
    [
        Route(name=""),
        Route(name="$fallback"),
        Route(name="a b"),
        Route(name="r", source="Telemetry"),
        Route(name="r", endpoint_names=()),
    ],
)
def test_routes_that_are_refused(route: Route) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_route(route)
    assert caught.value.code == "invalid-route"


def test_what_is_fine() -> None:
    check_route(Route(name="a.b-c_1", source="TwinChangeEvents"))
    check_enrichment(Enrichment(key="k.1", value="$twin.properties.reported.fw.version"))
    check_endpoint("files", FileSettings(directory="plant/alarms"))
    check_endpoint("hook", WebhookSettings(url="https://[::1]:8443/in?x=1"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("k", ""),
        ("k", "$twin"),
        ("k", "$twin.deviceId"),
        ("k", "$twin.tags."),
        ("k", "$body.x"),
        ("k", "x" * 5000),
    ],
)
def test_enrichments_that_are_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_enrichment(Enrichment(key=key, value=value))
    assert caught.value.code == "invalid-enrichment"


def test_paths_of_values() -> None:
    assert twin_path("$twin.tags") == ("tags",)
    assert twin_path("$TWIN.Properties.Desired.Ab.c") == ("properties", "desired", "Ab", "c")
    assert twin_path("$twin.tagsx") is None
    assert twin_path("tags.a") is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Events", FileSettings()),
        ("..", FileSettings()),
        ("a/b", FileSettings()),
        ("f", FileSettings(directory="/etc")),
        ("f", FileSettings(directory="a/../../b")),
        ("f", FileSettings(max_file_bytes=1)),
        ("f", FileSettings(max_file_age_s=0)),
        ("w", WebhookSettings(url="ftp://x")),
        ("w", WebhookSettings(url="http://x/\r\nX-Other: header")),
        ("w", WebhookSettings(url="http://x/a b")),
        ("w", WebhookSettings(url="https://")),
        ("w", WebhookSettings(url="https://u:p@x")),
        ("w", WebhookSettings(url="http://[")),
        ("w", WebhookSettings(url="https://x", auth="basic")),
        ("w", WebhookSettings(url="https://x", max_batch_events=0)),
        ("w", WebhookSettings(url="https://x", timeout_s=0)),
    ],
)
def test_endpoints_that_are_refused(name: str, settings: FileSettings | WebhookSettings) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_endpoint(name, settings)
    assert caught.value.code == "invalid-endpoint"
