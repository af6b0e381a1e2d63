"""Write the reference pages that say what the code says: `python scripts/reference.py`.

A test compares the pages with what this writes, so they cannot go out of date.
"""

from __future__ import annotations

from pathlib import Path

from muster.decisions.explain import EXPLANATIONS
from muster.edge.check.causes import Cause
from muster.edge.check.official import ELSEWHERE, RENAMED
from muster.edge.check.run import SECTIONS
from muster.hub.endpoints import errors as hub_errors
from muster.language.functions import TABLE
from muster.language.lexer import MAX_LENGTH
from muster.language.parser import MAX_DEPTH
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


QUERY_LANGUAGE = f"""# Query language

```
query      SELECT [TOP n] list FROM collection [WHERE condition] [GROUP BY path, …]
collection devices | devices.modules | devices.jobs
list       * | item [AS name], …
item       path | COUNT() | AVG(path) | SUM(path) | MIN(path) | MAX(path)
path       name.name.… | name.[[any name]] | name[0]
condition  AND, OR, NOT, ( ), = != <> < <= > >=, IN [a, b], NIN [a, b], + - * / %, functions
constant   'text' | "text" | 12.5 | 0xff | true | false | null | undefined | [a, b]
```

- Keywords, functions and the service's own names (`deviceId`, `properties.desired`, …) may be in
  any case; names in tags and properties are case-sensitive.
- A condition holds only when it is exactly true. Two values of different types, or one that is not
  there, make a comparison undefined: neither it nor its NOT holds.
- Texts compare by code point, times are texts (`lastActivityTime > '2026-01-31'`).
- In texts: `\\' \\" \\\\ \\n \\t \\uXXXX`, or the quotation mark twice. Comments: `/* … */`.
- A text has {MAX_LENGTH} characters at most, with {MAX_DEPTH} expressions inside each other.
- An aggregate without a name is called as its function: `count`, `avg`, ….

**Target conditions** are what stands behind WHERE, `*` for all devices, nothing for none; those of
module configurations are `FROM devices.modules WHERE condition`.

**Routes** take the same conditions about a message: a bare name is an application property, `$name`
a system property (`$contentType`, `$connectionDeviceId`, …), `$body.path` a part of a JSON body,
`$twin.path` a part of the sender's twin. A hyphen inside a name belongs to it there:
`mqtt-retain = 'true'`; write `a - b` to subtract. `a || b` joins texts. In queries and target conditions a name with a
hyphen stands in brackets: `tags.[[cold-room]] = 'yes'`.

## Functions

| Function | Gives |
|---|---|
"""


def query_language() -> str:
    """Return the page of the query language."""
    rows = (f"| `{each.signature}` | {each.gives} |" for each in TABLE)
    return QUERY_LANGUAGE + "\n".join(rows) + "\n"


EDGE_CHECKS = """# What `iotedge check` does

In this order. A check that has no meaning for a device is ignored; where the configuration cannot be
read, nothing else is looked at. Where a check has found an error, those that need it would only say the
same again, so they are skipped and name it: what is to be mended is said once.

`--dont-run ID...` leaves checks out, with spaces between; of those that need them nothing is assumed. The
command ends with 1 where a check finds an error, with `--warnings-as-errors` also for a warning. With
`-o json`, `result` is `ok`, `warning`, `error`, `fatal`, `skipped` or `ignored`, and `additional_info.cause`
is one of [the causes](#causes). `--verbose` shows what was skipped or ignored, too, and the causes.

The clock is compared first, with what the service says whatever its certificate: a certificate that is
not accepted because the clock is wrong is the clock's error. Proxies are those of the daemon. Who is not
root is told what only root can see.
"""


def edge_checks() -> str:
    """Return the page of what `iotedge check` does."""
    lines = [EDGE_CHECKS]
    for title, checks in SECTIONS:
        lines += [f"## {title}", ""]
        lines += ["| ID | Passes when | What is done | Needs |", "|---|---|---|---|"]
        for check in checks:
            done = (check.run.__doc__ or "").partition("\n")[0].rstrip(".")
            needs = ", ".join(f"`{each}`" for each in check.needs)
            done = f"{done[0].lower()}{done[1:]}"
            lines.append(f"| `{check.id}` | {check.description} | {done} | {needs} |")
        lines.append("")
    lines += [
        "AMQP and the ways from containers are for modules that speak to the hub themselves; the device",
        "speaks MQTT, and modules speak to the edge hub. `UpstreamProtocol` in `[agent.env]` leaves out what",
        "it does not use: `Mqtt` and `MqttWs` the AMQP checks, `MqttWs` and `AmqpWs` the MQTT check of the",
        "device.",
        "",
        "## Official checks that are not here",
        "",
        "Their IDs may stand behind `--dont-run` all the same.",
        "",
        "| ID | |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | is `{new}`, and leaves that out |" for name, new in RENAMED.items()]
    lines += [f"| `{name}` | {why} |" for name, why in ELSEWHERE.items()]
    lines += ["", "## Causes", "", "A test breaks that very thing for each of them.", ""]
    lines += ["| Cause | Means |", "|---|---|"]
    lines += [f"| `{cause}` | {cause.meaning} |" for cause in Cause]
    return "\n".join(lines) + "\n"


PAGES = {
    "explanations.md": explanations,
    "errors.md": errors,
    "query-language.md": query_language,
    "edge-checks.md": edge_checks,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
