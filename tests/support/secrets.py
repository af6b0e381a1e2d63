"""Keys and tokens as a device or operator makes them, each remembered for the leak check.

Written from dps.md 2.1 and 2.2 without the service's own code, so that the two check each other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from muster.clock import SystemClock
from support.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CLOCK = SystemClock()

_TELLING = 24
"""This many characters of a key are no coincidence."""
_WORDS = re.compile(rb"[A-Za-z0-9+/%]{24,}")


def new_key(length: int = 32) -> str:
    """Make a symmetric key, base64."""
    return remember(base64.b64encode(os.urandom(length)).decode())


def remember(secret: str) -> str:
    """Note a secret that no log may ever show."""
    directory = Run.current().directory / "secrets"
    directory.mkdir(exist_ok=True)
    with (directory / str(os.getpid())).open("a") as file:
        file.write(secret + "\n")
    return secret


def derive(group_key: str, registration_id: str) -> str:
    """Derive a device's key from its group's, base64."""
    digest = hmac.digest(base64.b64decode(group_key), registration_id.encode(), hashlib.sha256)
    return remember(base64.b64encode(digest).decode())


def signature(raw_sr: str, expiry: int, key: str) -> str:
    """Sign the resource exactly as it is written."""
    digest = hmac.digest(base64.b64decode(key), f"{raw_sr}\n{expiry}".encode(), hashlib.sha256)
    return remember(base64.b64encode(digest).decode())


def raw_token(raw_sr: str, key: str, *, ttl_s: int = 3600, key_name: str | None = None) -> str:
    """Write a token whose resource stands there as given, not encoded any further."""
    expiry = int(CLOCK.time()) + ttl_s
    sig = quote(signature(raw_sr, expiry, key), safe="")
    name = f"&skn={key_name}" if key_name is not None else ""
    return f"SharedAccessSignature sr={raw_sr}&sig={sig}&se={expiry}{name}"


def token(resource: str, key: str, *, ttl_s: int = 3600, key_name: str | None = None) -> str:
    """Write a token the way most clients do: `%2F`, case kept."""
    return raw_token(quote(resource, safe=""), key, ttl_s=ttl_s, key_name=key_name)


def parse_connection_string(text: str) -> dict[str, str]:
    """Split `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`."""
    parts = dict(part.split("=", 1) for part in text.split(";") if part)
    if key := parts.get("SharedAccessKey"):
        remember(key)
    return parts


def leaks(directory: Path, files: Iterable[Path]) -> list[str]:
    """Name every file that contains a secret of the run, without repeating the secret."""
    known: set[str] = set()
    for file in (directory / "secrets").glob("*"):
        known.update(file.read_text().split())
    starts = {form[:_TELLING].encode() for text in known for form in (text, quote(text, safe=""))}
    found = []
    for file in files:
        seen = {
            window
            for word in _WORDS.findall(file.read_bytes())
            for at in range(len(word) - _TELLING + 1)
            if (window := word[at : at + _TELLING]) in starts
        }
        if seen:
            found.append(f"{file} shows {len(seen)} of the keys and signatures the tests used")
    return found
