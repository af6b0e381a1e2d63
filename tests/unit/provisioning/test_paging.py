"""The query of enrollments and their groups (dps.md 3.1)."""

from __future__ import annotations

import pytest

from muster.errors import InvalidArgumentError
from muster.provisioning.paging import check_query


@pytest.mark.parametrize(
    "text",
    [
        "SELECT *",
        # `az iot dps enrollment list` of its extension 0.25.0
        "{'additional_properties': {}, 'query': 'SELECT *'}",
        " select  * ",
        "SELECT * FROM enrollments;",
        "select *\nfrom enrollmentGroups ; ",
    ],
)
def test_the_query_every_client_sends(text: str) -> None:
    check_query(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT",
        "SELECT registrationId",
        "SELECT * FROM",
        "SELECT * ;;",
        "SELECT * FROM enrollments WHERE a = 1",
        # Read in one go, or it takes minutes.
        "SELECT *" + " " * 200_000 + "x",
        " " * 200_000 + "x",
    ],
)
def test_any_other(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        check_query(text)
    assert refused.value.code == "unsupported-query"
