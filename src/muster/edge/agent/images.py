"""Names of container images, and the credentials of the registries they come from (edge.md 5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from muster.edge.engine.base import RegistryLogin

DEFAULT_REGISTRY: Final = "https://index.docker.io/v1/"
"""How credentials name the registry of images that name none."""

_IMAGE: Final = re.compile(r"(?:[^/]*/)*[^/:]+(?P<tag>:[^/:]+)?").fullmatch
_UPSTREAM: Final = re.compile(r"(?P<before>.*)\$upstream(?P<after>:[1-9].*)").fullmatch


def normalized(image: str, parent_hostname: str | None) -> str:
    """Return the name of an image with a tag and without `$upstream`.

    Args:
        image: as a deployment says it.
        parent_hostname: what `$upstream` stands for; `None` on a device without a parent.

    Raises:
        ValueError: it is no name of an image; the message says why.
    """
    image = image.strip()
    if not image:
        raise ValueError("the image has no name")
    if image.startswith("$"):
        image = with_upstream(image, parent_hostname)
    match = _IMAGE(image)
    if match is None:
        raise ValueError(f"Image {image} is not in the right format")
    return image if match["tag"] else f"{image}:latest"


def with_upstream(text: str, parent_hostname: str | None) -> str:
    """Return the text with the parent's name for `$upstream`; the text itself without one.

    Raises:
        ValueError: `$upstream` stands there without a port, or the device has no parent.
    """
    if "$upstream" not in text:
        if text.startswith("$"):
            raise ValueError(f"{text} begins with a variable; the only one there is is $upstream")
        return text
    match = _UPSTREAM(text)
    if match is None:
        raise ValueError(f"{text} names $upstream without a port")
    if parent_hostname is None:
        raise ValueError(f"{text} names $upstream, and this device has no parent_hostname")
    return f"{match['before']}{parent_hostname}{match['after']}"


def registry(image: str) -> str | None:
    """Return the registry an image comes from, as credentials name it.

    Returns:
        `None` for a public image of the default registry (`name` alone).
    """
    first, slash, _ = image.partition("/")
    if not slash:
        return None
    return first if "." in first or ":" in first or first == "localhost" else DEFAULT_REGISTRY


def login(image: str, *sources: Iterable[RegistryLogin]) -> RegistryLogin | None:
    """Return the first credentials that match the image's registry; `None` for none."""
    wanted = registry(image)
    if wanted is None:
        return None
    for source in sources:
        for known in source:
            if known.address.lower() == wanted.lower():
                return known
    return None
