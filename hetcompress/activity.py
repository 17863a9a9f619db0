"""What long work is at: told by those who work, shown by whoever listens.

Nothing is shown where nobody listens, so the library is as quiet as it was.  ::

    with listening(print):
        for layer in counted(layers, "timing forms: layer"):
            ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["Listener", "counted", "listening", "working"]

T = TypeVar("T")
Listener = Callable[[str], None]
"""Is told in words what begins now."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` what is being worked at inside the block, and no other."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def working(what: str) -> None:
    """Tell the listener, if there is one, what begins now."""
    listener = _listener.get()
    if listener is not None:
        listener(what)


def counted(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield items, telling the listener before each which of how many it is.

    Args:
        items: What is worked at one by one; how many they are is told where they have a length.
        what: What is done with them.
    """
    of_all = f" of {len(items)}" if isinstance(items, Sized) else ""
    for number, item in enumerate(items, 1):
        working(f"{what} {number}{of_all}")
        yield item
