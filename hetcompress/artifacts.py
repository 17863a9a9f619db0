"""The run folder: what the steps hand to each other, as data with a version.

::

    run.json                format, source, architecture, input, conversion, every stage's settings and results
    dense.safetensors       the source weights: baseline and teacher
    converted.safetensors   the learnable model
    checkpoints/last.ckpt   complete training state, read with weights_only
    metrics.jsonl           one line for each epoch
    pruned.safetensors      kernel shapes (bool, as data) and weights with real zeros
    report/  export/        what `report` and `export` wrote

Opening a run replays the recorded conversion on the recorded architecture.  Code is never read from it: an architecture
that is a user's own factory must be named again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hetcompress.conversion import convert
from hetcompress.errors import InputError, UsageError
from hetcompress.files import cannot_write, write_bytes, write_text
from hetcompress.models import Architecture, InputSpec
from hetcompress.pruning import pruned_skeleton
from hetcompress.shapes import build_family

__all__ = ["FORMAT", "RunFolder"]

FORMAT = 1
MANIFEST = "run.json"
DENSE, CONVERTED, PRUNED = "dense.safetensors", "converted.safetensors", "pruned.safetensors"
REGISTERED = ("hetcompress:", "torchvision:", "timm:")


def _save_weights(path: Path, model: nn.Module) -> None:
    seen: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        # modules used under two names show their tensors twice; the first name keeps them
        if tensor.numel() and seen.setdefault(tensor.data_ptr(), name) != name:
            continue
        tensors[name] = tensor.detach().cpu().contiguous()
    write_bytes(path, save(tensors, metadata={"format": "pt"}))


def _load_weights(path: Path, model: nn.Module, step: str) -> nn.Module:
    if not path.exists():
        raise InputError(
            f"run folder {path.parent}", expected=path.name, found="no such file", fix=f"run `{step}` again"
        )
    try:
        tensors = load_file(path)
        aliases = {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if tensor.numel()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path}", expected="the weights that run.json describes", found=str(error), fix=f"run `{step}` again"
        ) from None
    loaded = {aliases.get(name) for name in tensors}
    absent = [name for name in missing if name in aliases and aliases[name] not in loaded]
    if absent or unexpected:
        found = f"missing {absent[:3]}, unexpected {list(unexpected)[:3]}"
        raise InputError(f"{path}", expected="the tensors of the model", found=found, fix=f"run `{step}` again")
    return model.eval()


class RunFolder:
    """One run on disk.  `create` and `open` build it; the manifest is a plain dictionary, written by `save`.

    Attributes:
        path: The folder.
        manifest: The contents of run.json.
        factory: The user's own ``--arch`` for this session, or None.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], factory: str | None = None) -> None:
        self.path, self.manifest, self.factory = path, manifest, factory

    @classmethod
    def create(
        cls, path: Path, manifest: Mapping[str, Any], dense: nn.Module, converted: nn.Module, *, force: bool
    ) -> RunFolder:
        """Write a new run; it appears under its name only when it is complete.

        Raises:
            UsageError: The folder exists and `force` is not given, or it holds something that is not a run.
            HetCompressError: It cannot be written.
        """
        check_free(path, force=force)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
                fresh, old = Path(temporary) / "new", Path(temporary) / "old"
                fresh.mkdir()
                run = cls(fresh, {"format": FORMAT, **manifest})
                _save_weights(fresh / DENSE, dense)
                _save_weights(fresh / CONVERTED, converted)
                run.save()
                if path.exists():
                    path.rename(old)
                try:
                    fresh.rename(path)
                except OSError:
                    if old.exists():
                        old.rename(path)
                    raise
        except OSError as error:
            raise cannot_write(f"run folder {path}", error) from error
        return cls(path, run.manifest)

    @classmethod
    def open(cls, path: Path, *, factory: str | None = None) -> RunFolder:
        """Open an existing run.

        Raises:
            InputError: There is no run, or it is broken or of a newer format.
        """
        if not path.exists():
            raise InputError(
                f"run folder {path}", expected="one made by convert", found="no such folder",
                fix="run `hetcompress convert CHECKPOINT` first, or name another folder with --run",
            )  # fmt: skip
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            version = manifest["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"run folder {path}", expected=f"a readable {MANIFEST}", found=f"{type(error).__name__}: {error}",
                fix="run `hetcompress convert CHECKPOINT --force` again",
            ) from None  # fmt: skip
        if version != FORMAT:
            raise InputError(
                f"run folder {path}", expected=f"format {FORMAT}", found=f"format {version}",
                fix="open it with the version of hetcompress that wrote it, or a newer one",
            )  # fmt: skip
        return cls(path, manifest, factory)

    def save(self) -> None:
        """Write run.json."""
        write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=2) + "\n")

    def record(self, stage: str, results: Mapping[str, Any]) -> None:
        """Write down what a stage did, in place of what it did before."""
        self.manifest.setdefault("stages", {})[stage] = dict(results)
        self.save()

    def stage(self, name: str) -> dict[str, Any] | None:
        """Return what a stage wrote down, or None."""
        found = self.manifest.get("stages", {}).get(name)
        return found if isinstance(found, dict) else None

    @property
    def input_spec(self) -> InputSpec:
        """Size and normalisation of the images that the model expects."""
        spec = self.manifest["input"]
        return InputSpec(tuple(spec["size"]), tuple(spec["mean"]), tuple(spec["std"]))

    @property
    def checkpoint(self) -> Path:
        """Where the training state is."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """Where the epochs are written down."""
        return self.path / "metrics.jsonl"

    @property
    def pruned(self) -> Path:
        """Where the pruned weights are."""
        return self.path / PRUNED

    def _build(self) -> nn.Module:
        recorded = self.manifest["architecture"]
        spec = recorded["spec"]
        if not spec.startswith(REGISTERED) and self.factory != spec:
            raise UsageError(
                f"run folder {self.path}", expected=f"--arch {spec}", found=f"--arch {self.factory}",
                fix="name your own model code again, since code is never run because a file says so",
            )  # fmt: skip
        return Architecture(spec, dict(recorded["arguments"])).build()

    def dense_model(self) -> nn.Module:
        """Return the source model, in eval mode."""
        return _load_weights(self.path / DENSE, self._build(), "hetcompress convert")

    def _converted(self) -> nn.Module:
        settings = self.manifest["conversion"]
        family = build_family(settings["family"], settings["family_arguments"])
        chosen = settings["layers"]
        return convert(
            self._build(), family=family, group_out=settings["group_out"], group_in=settings["group_in"], include=chosen
        ).model

    def converted_model(self) -> nn.Module:
        """Return the learnable model, in eval mode."""
        return _load_weights(self.path / CONVERTED, self._converted(), "hetcompress convert")

    def pruned_model(self) -> nn.Module:
        """Return the pruned model, in eval mode.

        Raises:
            InputError: Nothing has been pruned yet.
        """
        if not self.pruned.exists():
            raise InputError(
                f"run folder {self.path}", expected="a pruned model", found="none",
                fix="run `hetcompress finetune --data NAME` first, or `hetcompress prune --mac-ratio 2`, untrained",
            )  # fmt: skip
        return _load_weights(self.pruned, pruned_skeleton(self._converted()), "hetcompress finetune")

    def save_pruned(self, model: nn.Module) -> None:
        """Write the pruned model."""
        _save_weights(self.pruned, model)

    def discard_results(self) -> None:
        """Forget what was made from an earlier pruned model: reports and exports speak of another net now."""
        for name in ("report", "export"):
            shutil.rmtree(self.path / name, ignore_errors=True)
            self.manifest.get("stages", {}).pop(name, None)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a folder that would have to be replaced without consent, or that is no run.

    Raises:
        UsageError: The folder exists without `force`, or is not a run folder.
    """
    if not path.exists():
        return
    is_run = (path / MANIFEST).exists()
    if path.is_dir() and not any(path.iterdir()):
        return
    if not is_run:
        raise UsageError(
            f"--run {path}", expected="a new folder", found="one that is not a run", fix="name another with --run"
        )
    if not force:
        raise UsageError(
            f"--run {path}",
            expected="a new folder",
            found="a run",
            fix="name another with --run, or replace it with --force",
        )
