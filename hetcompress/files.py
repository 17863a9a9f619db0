"""Writing files so that no half-written one is ever visible under its final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hetcompress.errors import HetCompressError, UsageError

__all__ = [
    "cannot_write",
    "check_writable",
    "is_temporary",
    "replaced_together",
    "sha256_of",
    "write_atomically",
    "write_bytes",
    "write_text",
]

WRONG_NAME = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def cannot_write(what: Path | str, error: OSError) -> HetCompressError:
    """Return the error that says what the system said, with the advice that fits it."""
    where, found = f"cannot write {what}", error.strerror or str(error)
    if error.errno in WRONG_NAME:
        return UsageError(where, found=found, fix="name another path")
    if error.errno in FORBIDDEN:
        return HetCompressError(where, found=found, fix="make it writable or choose another folder")
    gone = error.errno == errno.ENOENT
    return HetCompressError(where, found=found, fix=f"{'' if gone else 'free some space or '}choose another folder")


def check_writable(path: Path) -> None:
    """Find out before long work, and leaving nothing behind, whether a file of this name could be written.

    Raises:
        UsageError: A file or a folder is in the way.
        HetCompressError: The folder cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_prefix(path), suffix=path.suffix):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then move it into place.

    Args:
        path: The final name; an existing file is replaced in one step, or left as it was on failure.
        write: Called with the temporary path; of what it raises, an `OSError` alone becomes one of ours.

    Raises:
        UsageError: A file or a folder is in the way.
        HetCompressError: The disk is full, or the folder cannot be written.
    """
    temporary = _temporary(path)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _rename(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_together(paths: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Give a temporary file beside each path; all take their names when the block ends, and none where it raises.

    Raises:
        UsageError: A file or a folder is in the way.
        HetCompressError: The folder cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path in paths:
            check_writable(path)  # so that no rename fails when others are done
            drafts[path] = _temporary(path)
        yield drafts
        for path, draft in drafts.items():
            _rename(draft, path)
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Make an empty file beside `path`, in a folder that is made where there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the suffix stays the same, since some writers choose their format by it
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Path(name)


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _prefix(path: Path) -> str:
    """Return how temporary files of a path begin; those of a temporary one as those of the one that it is for."""
    return f".{path.stem.lstrip('.')}-"


def is_temporary(path: Path, name: str) -> bool:
    """Say whether `path` is what a killed `write_atomically` of a file of this name leaves beside it."""
    wanted = Path(name)
    return path.name.startswith(_prefix(wanted)) and path.suffix == wanted.suffix


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically.

    Libraries serialise into memory for this, since their own writers hide the `OSError` of a full disk.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
