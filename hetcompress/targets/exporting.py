"""Export: write a model, open what was written, compare, and only then give the file its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.files import write_atomically
from hetcompress.graphs import evaluating
from hetcompress.memory import release
from hetcompress.targets.base import EXPORT_TARGETS
from hetcompress.targets.verification import Agreement, Truth, verify

__all__ = ["Exported", "export_model"]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written and verified.

    Attributes:
        path: The file.
        target: Name of the export target.
        bytes: Its size.
        max_difference: See `Agreement`, as for the next three.
        relative_difference: The number that was held against the tolerance.
        argmax_agreement: From 0 to 1.
        batch_sizes: Ascending.
        details: What the target says about the file, such as the opset.
    """

    path: Path
    target: str
    bytes: int
    max_difference: float
    relative_difference: float
    argmax_agreement: float
    batch_sizes: tuple[int, ...]
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path), "batch_sizes": list(self.batch_sizes)}


def export_model(
    target_name: str,
    model: nn.Module,
    example_input: Float[Tensor, "n c h w"],
    path: Path,
    *,
    truth: Truth | None = None,
    tolerance: float = 1e-4,
) -> Exported:
    """Write `model` for a target under `path`, verified; on any failure an existing file stays as it was.

    Args:
        target_name: A registered export target.
        model: Takes one tensor and returns one; on the CPU, left as it is.
        example_input: A batch of any size, on the CPU; only its shape and type matter.
        path: The file to make or replace.
        truth: What the file must compute; None is what `model` makes of random images.
        tolerance: Largest allowed relative difference, as `verify` defines it.

    Raises:
        UsageError: Unknown target.
        VerificationError: The file computes something else.
        InputError: The format cannot hold so large a model.
        HetCompressError: The model cannot be traced, or the file cannot be written.
    """
    target = EXPORT_TARGETS[target_name]()
    truth = truth or Truth.of(model, example_input)
    details: dict[str, Any] = {}
    agreements: list[Agreement] = []

    def write(temporary: Path) -> None:
        details.update(target.write(model, example_input, temporary))
        release()
        candidate = target.open(temporary, model)
        agreements.append(verify(candidate, truth, where=f"export --{target_name}", tolerance=tolerance))

    with evaluating(model):
        write_atomically(path, write)
    agreement = agreements[0]
    return Exported(
        path,
        target_name,
        path.stat().st_size,
        agreement.max_difference,
        agreement.relative_difference,
        agreement.argmax_agreement,
        agreement.batch_sizes,
        details,
    )
