"""Who hears how fine-tuning goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from hetcompress.evaluation import Accuracy

__all__ = ["Reporter", "Silent"]


@runtime_checkable
class Reporter(Protocol):
    """Hears how fine-tuning goes on."""

    def measured(self, when: str, accuracy: Accuracy) -> None:
        """An accuracy was measured."""

    def progressed(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        """A step was done."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """An epoch ended."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def warn(self, text: str) -> None:
        """Something should be known before the result is trusted."""


class Silent:
    """A reporter that says nothing."""

    def measured(self, when: str, accuracy: Accuracy) -> None:
        """Say nothing."""

    def progressed(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        """Say nothing."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""
