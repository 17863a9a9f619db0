"""Reading the options that choose data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hetcompress.errors import UsageError

if TYPE_CHECKING:
    from hetcompress.pipeline import DataSettings

__all__ = ["data_settings"]


def data_settings(
    name: str | None,
    root: Path | None,
    *,
    download: bool = False,
    workers: int = 2,
    crop_padding: int | None = None,
    flip: bool | None = None,
    cutout: int | None = None,
) -> DataSettings:
    """Return the settings, with the root from the option.

    Raises:
        UsageError: No name is given, or it is unknown.
    """
    from hetcompress.data import DATA_SOURCES
    from hetcompress.pipeline import DataSettings

    if name is None:
        raise UsageError(
            "--data", expected=f"one of {', '.join(DATA_SOURCES)}", found="nothing", fix="pass --data NAME"
        )
    DATA_SOURCES[name]
    return DataSettings(name, root, download, workers, crop_padding, flip, cutout)
