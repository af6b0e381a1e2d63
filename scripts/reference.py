"""Write the reference pages that say what the code says: `python scripts/reference.py`.

A test compares the pages with what this writes, so they cannot go out of date.
"""

from __future__ import annotations

from pathlib import Path

from muster.decisions.explain import EXPLANATIONS
from muster.hub.endpoints import errors as hub_errors
from muster.provisioning.endpoints import errors as dps_errors

DOCS = Path(__file__).parent.parent / "docs" / "reference"


def explanations() -> str:
    """Return the page of every check the service can name."""
    lines = [
        "# Explanations",
        "",
        "Every check that `muster registration explain` can name. `{…}` stands for a fact of the",
        "case at hand.",
    ]
    for check, texts in EXPLANATIONS.items():
        lines += ["", f"## `{check}`", "", f"**{texts.title}.** {texts.cause}", "", texts.remedy]
    return "\n".join(lines) + "\n"


def errors() -> str:
    """Return the page of official error numbers."""
    lines = [
        "# Errors",
        "",
        "What clients get. The tracking ID of an error (`trackingId`, `x-ms-request-id`, or",
        "`Tracking ID:` in a hub's message) can be given to `muster registration explain`.",
        "",
        "## Provisioning service",
        "",
        "Body: `{errorCode, trackingId, message, timestampUtc}`; on MQTT the status stands in the",
        "topic, and a refusal is 401000 instead of 401002.",
        "",
        "| Case | Status | errorCode |",
        "|---|---|---|",
    ]
    for code, number in dps_errors.BY_CODE.items():
        lines.append(f"| `{code}` | {number.status} | {number.error_code} |")
    for meaning, number in dps_errors.BY_MEANING:
        name = meaning.default_code
        lines.append(f"| any other `{name}` | {number.status} | {number.error_code} |")
    lines += [
        "",
        "## Hub",
        "",
        'Body: `{Message: "ErrorCode:NAME;text", ExceptionMessage: "Tracking ID:…"}`, header',
        "`iothub-errorcode: NAME`. The status is the number divided by 1000. The message of a failed",
        "direct method is a JSON text `{errorCode, trackingId, message, info, timestampUtc}`.",
        "",
        "| Case | Number | Name |",
        "|---|---|---|",
    ]
    for code, number in hub_errors.BY_CODE.items():
        lines.append(f"| `{code}` | {number.number} | {number.name} |")
    for meaning, number in hub_errors.BY_MEANING:
        lines.append(f"| any other `{meaning.default_code}` | {number.number} | {number.name} |")
    return "\n".join(lines) + "\n"


PAGES = {"explanations.md": explanations, "errors.md": errors}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
