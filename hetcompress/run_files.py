"""What belongs to a run folder, and what may be replaced or removed there: never a file that someone else put."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from hetcompress.errors import UsageError
from hetcompress.files import cannot_write, is_temporary

__all__ = ["CONVERTED", "DENSE", "MADE", "MANIFEST", "PRUNED", "alone", "check_free", "is_ours", "is_own", "run_option"]

MANIFEST = "run.json"
DENSE, CONVERTED, PRUNED = "dense.safetensors", "converted.safetensors", "pruned.safetensors"
OWN = {MANIFEST, DENSE, CONVERTED, PRUNED, "checkpoints", "metrics.jsonl", "plan.json", "report", "export"}
"""Everything that hetcompress writes into a run folder."""

MADE = {
    "report": ("report.json", "layers.csv"),
    "export": ("model.onnx", "model.int8.onnx", "model.pt2", "model.safetensors"),
}
"""Files that can be made anew, by folder."""

WITHIN = {**MADE, "checkpoints": ("last.ckpt",)}
"""Everything that hetcompress writes into folders of a run folder."""


def run_option(path: Path) -> str:
    """Return the option that names this run folder to a command; empty for the one that commands take by themselves."""
    return "" if path == Path(os.environ.get("HETCOMPRESS_RUN", "hetrun")) else f" --run {shlex.quote(str(path))}"


def is_own(path: Path) -> bool:
    """Say whether hetcompress wrote a file in a folder of a run folder, or a write that was killed left it there."""
    names = WITHIN.get(path.parent.name, ())
    return path.is_file() and (path.name in names or any(is_temporary(path, name) for name in names))


def _foreign(path: Path) -> list[str]:
    """Return what lies in a run folder that hetcompress did not write, by name within it."""
    inside = [entry for name in WITHIN if (path / name).is_dir() for entry in (path / name).iterdir()]
    entries = [entry for entry in path.iterdir() if not (entry.name in OWN or any(is_temporary(entry, n) for n in OWN))]
    entries += [entry for entry in inside if not is_own(entry)]
    return sorted(str(entry.relative_to(path)) for entry in entries)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder, as long as the system can (where it has ``flock``).

    The lock is the system's, on the folder itself: nothing is left behind, however the process ends.

    Raises:
        UsageError: Another process trains there.
    """
    try:
        import fcntl
    except ImportError:  # not there on every system
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"run folder {path}", expected="no other training in it", found="one that is still running",
                fix="wait for it or stop it, or convert into another folder with --run",
            ) from None  # fmt: skip
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def is_ours(path: Path) -> bool:
    """Say whether a folder is a run, or what is left of one and nothing else."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return MANIFEST in names or (bool(names & {DENSE, CONVERTED}) and names <= OWN)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a folder that would have to be replaced without consent, or that is no run.

    Raises:
        UsageError: The folder exists without `force`, or is not a run folder.
    """
    if not path.exists():
        return
    try:
        empty, ours = path.is_dir() and not any(path.iterdir()), is_ours(path)
    except OSError as error:
        raise cannot_write(f"--run {path}", error) from None
    if empty:
        return
    if not ours:
        raise UsageError(
            f"--run {path}", expected="a new folder", found="one that is not a run" if path.is_dir() else "a file",
            fix="name another with --run",
        )  # fmt: skip
    if not force:
        raise UsageError(
            f"--run {path}",
            expected="a new folder",
            found="a run",
            fix="name another with --run, or replace it with --force",
        )
    if foreign := _foreign(path):
        raise UsageError(
            f"--run {path}", expected="a run and nothing else to replace", found=", ".join(foreign[:3]),
            fix="move that away, or name another folder with --run",
        )  # fmt: skip
