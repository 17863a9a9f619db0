"""From a file to a model: read, find or build the architecture, load strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hetcompress.errors import InputError, UsageError
from hetcompress.files import sha256_of
from hetcompress.models.architectures import Architecture, input_spec_of, parse_architecture
from hetcompress.models.base import InputSpec
from hetcompress.models.checkpoints import read_state_dict
from hetcompress.models.filling import fill_
from hetcompress.models.identification import (
    differences,
    identify,
    number_of_classes,
    others_that_fit,
    without_common_prefix,
)

__all__ = ["LoadedModel", "load_model"]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model and where it came from.

    Attributes:
        model: In eval mode, on the CPU.
        architecture: What builds it.
        input_spec: Its images, where the architecture tells.
        sha256: Of the checkpoint file.
        notes: What was assumed about the checkpoint, in words.
    """

    model: nn.Module
    architecture: Architecture
    input_spec: InputSpec | None
    sha256: str
    notes: tuple[str, ...] = ()


def load_model(
    path: Path,
    *,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    prefer_ema: bool = False,
) -> LoadedModel:
    """Load a checkpoint into the architecture that it belongs to.

    Args:
        path: The checkpoint.
        arch: What builds the model; None finds it.
        arguments: Keyword arguments of the factory; a class count that is not given is taken from the checkpoint.
        trust_pickle: See `read_state_dict`.
        prefer_ema: See `read_state_dict`.

    Raises:
        InputError: The file is unusable, or does not fit.
        UsageError: The architecture cannot be built.
    """
    if arch is None and arguments:
        raise UsageError("--arch-arg", expected="--arch beside it", found="none", fix="name the architecture")
    known = parse_architecture(arch, arguments) if arch is not None else None
    tensors = read_state_dict(path, trust_pickle=trust_pickle, prefer_ema=prefer_ema)
    architecture, prefix = _architecture(path, known, tensors)
    notes = []
    if prefix:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"all names of {path.name} begin with '{prefix}', which was taken off")
    others = others_that_fit(architecture) if known is None else ()
    if others:
        notes.append(
            f"{path.name} was read as {architecture.spec}; {', '.join(others)} fits as well: choose with --arch"
        )
    model = architecture.skeleton()
    _load(path, model, tensors, architecture)
    spec = input_spec_of(architecture, model)
    return LoadedModel(model.eval(), architecture, spec, sha256_of(path), tuple(notes))


def _architecture(path: Path, known: Architecture | None, tensors: Mapping[str, Tensor]) -> tuple[Architecture, str]:
    """Return what the tensors fit, and the prefix that must be taken off their names first, usually ""."""
    where = f"checkpoint {path}"
    prefix, inner = without_common_prefix(tensors)
    if known is None:
        try:
            return identify(tensors, where), ""
        except InputError:
            if not prefix:
                raise
        return identify(inner, where), prefix
    architecture = _with_classes(known, tensors)
    if prefix and not _fits(architecture, tensors):
        other = _with_classes(known, inner)
        if _fits(other, inner):
            return other, prefix
    return architecture, ""


def _fits(architecture: Architecture, tensors: Mapping[str, Tensor]) -> bool:
    return differences(_shapes(tensors), _shapes(architecture.skeleton().state_dict())).size == 0


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _with_classes(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Architecture:
    """Take the class count from the checkpoint where none is given and that makes it fit."""
    classes = number_of_classes(tensors)
    if classes is None or "num_classes" in architecture.arguments:
        return architecture
    if _fits(architecture, tensors):
        return architecture
    counted = Architecture(architecture.spec, {**architecture.arguments, "num_classes": classes})
    try:
        return counted if _fits(counted, tensors) else architecture
    except UsageError:
        return architecture  # the factory takes no class count


def _load(path: Path, model: nn.Module, tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    difference = differences(_shapes(tensors), _shapes(model.state_dict()))
    if difference.size:
        classes, fix = number_of_classes(tensors), "name the right one with --arch, or its arguments with --arch-arg"
        if not difference.missing and not difference.unexpected and len(difference.reshaped) <= 2:
            known = architecture.spec.partition(":")[0] in ("hetcompress", "torchvision", "timm")
            way = f"pass --arch-arg num_classes={classes}" if known else "let the factory build so many (--arch-arg)"
            fix = f"the checkpoint has {classes} classes: {way}"
        raise InputError(
            f"checkpoint {path}", expected=f"the tensors of {architecture.spec} {architecture.arguments or ''}".strip(),
            found=str(difference), fix=fix,
        )  # fmt: skip
    own = model.state_dict()
    fill_(model, {name: tensor for name, tensor in tensors.items() if name in own})
