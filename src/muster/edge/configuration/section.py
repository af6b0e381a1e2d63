"""One table of a configuration file, read key by key; what nobody asked for is refused."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from muster.edge.configuration.document import ConfigurationError, Document, dotted

if TYPE_CHECKING:
    from pathlib import Path

    from muster.edge.configuration.document import Place


class Section:
    """A table.

    Args:
        document: the file.
        place: of the table in it.
        value: the table itself.
        notices: what to tell the owner of the file, shared by all its sections.
    """

    def __init__(
        self, document: Document, place: Place, value: dict[str, Any], notices: list[str]
    ) -> None:
        self._document = document
        self._place = place
        self._notices = notices
        fold = str.lower if document.fold else str
        self._values = {fold(key): each for key, each in value.items()}
        self._written = {fold(key): key for key in value}
        self._asked: set[str] = set()

    @property
    def source(self) -> Path:
        """The file."""
        return self._document.source

    def __contains__(self, key: str) -> bool:
        return self._values.get(self._fold(key)) is not None

    def error(self, key: str | None, problem: str) -> ConfigurationError:
        """Return the error of a key, or of the whole table."""
        return ConfigurationError(self._at(key, problem))

    def notice(self, key: str, text: str) -> None:
        """Accept a key that has nothing to act on, and say so."""
        if self.value(key) is not None:
            self._notices.append(self._at(key, text))

    def refuse(self, key: str, reason: str) -> None:
        """Refuse a key that cannot be honoured.

        Raises:
            ConfigurationError: the file has it.
        """
        if self.value(key) is not None:
            raise self.error(key, reason)

    def value(self, key: str) -> Any:
        """Return what the key has, of whatever type; `None` where it is not there."""
        self._asked.add(self._fold(key))
        return self._values.get(self._fold(key))

    def text(self, key: str) -> str | None:
        """Return a text that is not empty; `None` where the key is not there."""
        found = self.value(key)
        if found is None:
            return None
        if not isinstance(found, str):
            raise self.error(key, "must be text in quotes")
        if not found.strip():
            raise self.error(key, "is empty")
        return found

    def required(self, key: str) -> str:
        """Return a text.

        Raises:
            ConfigurationError: it is not there, or no text.
        """
        found = self.text(key)
        if found is None:
            raise self.error(None, f"{key} is missing")
        return found

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        """Return one of a few words, in the spelling given here whatever its case."""
        found = self.text(key)
        if found is None:
            return None
        for each in choices:
            if each.lower() == found.lower():
                return each
        raise self.error(key, f"must be one of {', '.join(choices)}")

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean."""
        found = self.value(key)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise self.error(key, "must be true or false")
        return found

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`."""
        found = self.value(key)
        if found is None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
            raise self.error(key, f"must be a whole number from {least} to {most}")
        return found

    def section(self, key: str) -> Section:
        """Return a table; an empty one where the key is not there."""
        found = self.value(key)
        if found is None:
            found = {}
        if not isinstance(found, dict):
            raise self.error(key, "must be a table")
        return Section(self._document, (*self._place, self._name(key)), found, self._notices)

    def sections(self, key: str) -> list[Section]:
        """Return the tables of an array."""
        found = self.value(key)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self.error(key, "must be an array of tables")
        place = (*self._place, self._name(key))
        return [
            Section(self._document, (*place, index), each, self._notices)
            for index, each in enumerate(found)
        ]

    def texts(self, key: str) -> dict[str, str]:
        """Return a table of texts; numbers and booleans become text as files write them."""
        found = self.value(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise self.error(key, "must be a table")
        texts = {}
        for name, each in found.items():
            if isinstance(each, bool):
                texts[name] = "true" if each else "false"
            elif isinstance(each, str | int | float):
                texts[name] = str(each)
            else:
                raise self.error(f"{self._name(key)}.{name}", "must be text")
        return texts

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ConfigurationError: there is one.
        """
        for key, written in self._written.items():
            if key in self._asked:
                continue
            near = difflib.get_close_matches(key, self._asked, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self.error(written, f"there is no such key{hint}")

    def _fold(self, key: str) -> str:
        return key.lower() if self._document.fold else key

    def _name(self, key: str) -> str:
        return self._written.get(self._fold(key), key)

    def _at(self, key: str | None, text: str) -> str:
        place = self._place if key is None else (*self._place, *self._name(key).split("."))
        if key is not None and (*self._place, self._name(key)) in self._document.lines:
            place = (*self._place, self._name(key))
        where = f"{self._document.source}:{self._document.line(place)}"
        return f"{where}: {dotted(place)}: {text}" if place else f"{where}: {text}"
