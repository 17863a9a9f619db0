"""Named tables of the things that a user can choose: shape families, penalties, lowerings, data sets, targets."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from hetcompress.errors import UsageError

__all__ = ["Registry", "suggestion"]

T = TypeVar("T")


MOST_LISTED = 12


def suggestion(name: str, known: list[str]) -> str:
    """Return "did you mean 'x'?" for the nearest known name, or else the list of them, cut where it is long."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"choose one of {', '.join(known[:MOST_LISTED])}" + (", ..." if len(known) > MOST_LISTED else "")


class Registry(Generic[T]):
    """A table from name to class; filled by explicit imports, never by searching packages.

    Args:
        kind: What the entries are, for messages ("shape family").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters a class under `name`; a name taken twice is a `ValueError`."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            known = sorted(self._entries)
            raise UsageError(
                f"{self.kind} '{name}'",
                expected=f"one of {', '.join(known)}",
                found=f"'{name}'",
                fix=suggestion(name, known),
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
