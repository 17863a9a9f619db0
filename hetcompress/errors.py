"""The exceptions of hetcompress.

::

    HetCompressError          exit code 1: something failed while running
    +-- UsageError            exit code 2: an option or argument makes no sense
    +-- InputError            exit code 3: a file is missing, broken or unsafe
    +-- NothingToDoError      exit code 4: no layer to convert, or a target that cannot be reached
    +-- VerificationError     exit code 5: a step that must not change the function changed it

Every message is one line that says where, what was expected, what was found and how to fix it.  The command
line catches `HetCompressError` alone; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

__all__ = ["HetCompressError", "InputError", "NothingToDoError", "UsageError", "VerificationError", "first_line"]


class HetCompressError(Exception):
    """Base of all errors that a user can meet and mend.

    Args:
        where: The place: a file, a layer, an option, in words that begin the message.
        expected: What would have been right.
        found: What was there instead.
        fix: What to do about it.
    """

    exit_code = 1

    def __init__(
        self, where: str, *, expected: str | None = None, found: str | None = None, fix: str | None = None
    ) -> None:
        parts = []
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        text = where + (": " + ", ".join(parts) if parts else "")
        if fix is not None:
            text += f". Fix: {fix}"
        super().__init__(" ".join(text.split()))


class UsageError(HetCompressError):
    """An option or argument that makes no sense."""

    exit_code = 2


class InputError(HetCompressError):
    """A file that is missing, broken, unsafe or of another kind than expected."""

    exit_code = 3


class NothingToDoError(HetCompressError):
    """There is nothing to convert, or the target cannot be reached."""

    exit_code = 4


class VerificationError(HetCompressError):
    """A step that must not change the function changed it."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """Return the beginning of what another library says of its error: the rest is its own traceback or advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
