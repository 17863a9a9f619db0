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

import contextlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hetcompress.conversion import convert
from hetcompress.errors import HetCompressError, InputError, UsageError
from hetcompress.files import cannot_write, sha256_of, write_atomically, write_text
from hetcompress.granularity import Grain
from hetcompress.manifest import faults
from hetcompress.models import Architecture, InputSpec
from hetcompress.models.filling import fill_
from hetcompress.pruning import pruned_skeleton
from hetcompress.run_files import CONVERTED, DENSE, MADE, MANIFEST, PRUNED, check_free, is_ours, is_own, run_option
from hetcompress.surgery import named_modules_of
from hetcompress.tensor_files import write_tensors

__all__ = ["FORMAT", "RunFolder"]

FORMAT = 1
REGISTERED = re.compile(r"(hetcompress|torchvision|timm):[\w.-]+")
"""Architectures that are built because a file says so; whatever else a text of this kind could name is not."""

FETCHING = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "weights_backbone")
"""Arguments of theirs that open files or download; a run folder has weights of its own."""


def _again(path: Path) -> str:
    return f"run `hetcompress convert CHECKPOINT --run {shlex.quote(str(path))} --force` again"


def _unreadable(error: Exception) -> str:
    """Say in words what is wrong with a manifest."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON from line {error.lineno} on"
    return "no text" if isinstance(error, UnicodeDecodeError) else "no format number in it"


def _save_weights(path: Path, model: nn.Module) -> None:
    seen: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        # modules used under two names show their tensors twice; the first name keeps them
        if tensor.numel() and seen.setdefault(tensor.data_ptr(), name) != name:
            continue
        tensors[name] = tensor
    write_atomically(path, lambda temporary: write_tensors(temporary, tensors, {"format": "pt"}))


def _load_weights(path: Path, model: nn.Module, fix: str) -> nn.Module:
    if not path.exists():
        raise InputError(f"run folder {path.parent}", expected=path.name, found="no such file", fix=fix)
    try:
        tensors = load_file(path)
        missing, unexpected = fill_(model, tensors)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{path}", expected="the weights that run.json describes", found=str(error), fix=fix) from None
    if missing or unexpected:
        found = f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise InputError(f"{path}", expected="the tensors of the model", found=found, fix=fix)
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
        except HetCompressError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            # the user knows the folder by its own name, not by the temporary one
            raise cannot_write(f"run folder {path}", error.__cause__) from error
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
                fix=f"run `hetcompress convert CHECKPOINT{run_option(path)}` first, or name another folder with --run",
            )  # fmt: skip
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            version = manifest["format"]
        except OSError as error:
            fix = "make it readable, or name another folder with --run"
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                fix = _again(path) if is_ours(path) else "name another folder with --run: convert did not make this one"
            raise InputError(
                f"run folder {path}", expected=f"a readable {MANIFEST}", found=error.strerror or str(error), fix=fix
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"run folder {path}", expected=f"a readable {MANIFEST}", found=_unreadable(error),
                fix=_again(path),
            ) from None  # fmt: skip
        if version != FORMAT:
            raise InputError(
                f"run folder {path}", expected=f"format {FORMAT}", found=f"format {version}",
                fix="open it with the version of hetcompress that wrote it, or a newer one",
            )  # fmt: skip
        if wrong := faults(manifest):
            raise InputError(
                f"run folder {path}", expected=f"an undamaged {MANIFEST}", found="; ".join(wrong[:3]), fix=_again(path)
            )
        if missing := [name for name in (DENSE, CONVERTED) if not (path / name).exists()]:
            raise InputError(
                f"run folder {path}", expected=" and ".join(missing), found="no such file", fix=_again(path)
            )
        return cls(path, manifest, factory)

    def check_writable(self) -> None:
        """Refuse a folder that results cannot be written into, before they are computed.

        Raises:
            HetCompressError: It cannot be written.
        """
        try:
            for folder in (self.path, self.checkpoint.parent):
                if folder.exists():
                    tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise cannot_write(f"run folder {self.path}", error) from error

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

    def finished(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """Return what a stage of these settings wrote down, if the pruned model is still the one that it left."""
        found = self.stage(stage)
        if found is None or found.get("fingerprint") != fingerprint or not self.pruned.exists():
            return None
        return found if found.get("weights") == sha256_of(self.pruned) else None

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
    def plan(self) -> Path:
        """Which form each layer got when the model was lowered last."""
        return self.path / "plan.json"

    @property
    def pruned(self) -> Path:
        """Where the pruned weights are."""
        return self.path / PRUNED

    def _build(self) -> nn.Module:
        recorded = self.manifest["architecture"]
        spec = recorded["spec"]
        arguments = {name: value for name, value in recorded["arguments"].items() if name not in FETCHING}
        architecture = Architecture(spec, arguments)
        if REGISTERED.fullmatch(spec):
            with self._replaying():
                return architecture.skeleton()
        if self.factory != spec:
            raise UsageError(
                f"run folder {self.path}", expected=f"--arch {spec}",
                found=f"--arch {self.factory}" if self.factory else "no --arch",
                fix="name your own model code again, since code is never run because a file says so",
            )  # fmt: skip
        return architecture.build()

    def dense_model(self) -> nn.Module:
        """Return the source model, in eval mode."""
        return _load_weights(self.path / DENSE, self._build(), _again(self.path))

    def _converted(self) -> nn.Module:
        grains, model = self._grains(), self._build()
        unknown = sorted(grains.keys() - named_modules_of(model, nn.Conv2d).keys())
        if unknown:
            raise InputError(
                f"run folder {self.path}", expected="convolutions of the model under conversion.layers",
                found=", ".join(unknown[:3]), fix=_again(self.path),
            )  # fmt: skip
        with self._replaying():
            return convert(model, grains=grains, include=list(grains)).model

    def _grains(self) -> dict[str, Grain]:
        with self._replaying():
            return {name: Grain.from_json(values) for name, values in self.manifest["conversion"]["layers"].items()}

    @contextlib.contextmanager
    def _replaying(self) -> Iterator[None]:
        """What the command line would be blamed for stands in run.json here."""
        try:
            yield
        except HetCompressError as error:
            raise InputError(
                f"run folder {self.path}", expected=f"settings in {MANIFEST} that can be used again",
                found=str(error), fix=None if "Fix: " in str(error) else _again(self.path),
            ) from None  # fmt: skip

    def converted_model(self) -> nn.Module:
        """Return the learnable model, in eval mode."""
        return _load_weights(self.path / CONVERTED, self._converted(), _again(self.path))

    def pruned_model(self) -> nn.Module:
        """Return the pruned model, in eval mode.

        Raises:
            InputError: Nothing has been pruned yet.
        """
        run = run_option(self.path)
        if not self.pruned.exists():
            raise InputError(
                f"run folder {self.path}", expected="a pruned model", found="none",
                fix=f"run `hetcompress finetune --data NAME{run}` first, or `hetcompress prune --mac-ratio 2{run}`, "
                "untrained",
            )  # fmt: skip
        fix = f"run `hetcompress finetune --data NAME{run}` again"
        return _load_weights(self.pruned, pruned_skeleton(self._converted()), fix)

    def save_pruned(self, model: nn.Module) -> None:
        """Write the pruned model."""
        _save_weights(self.pruned, model)

    def check_untrained(self, *, force: bool) -> None:
        """Refuse to replace what was trained, unless `force` is given.

        Raises:
            UsageError: The run is fine-tuned, or its training was interrupted and can go on.
        """
        trained = self.stage("finetune") is not None
        if not force and (trained or self.checkpoint.exists()):
            raise UsageError(
                f"run folder {self.path}", expected="one without training results",
                found="a fine-tuned model" if trained else "a training that was interrupted and can go on",
                fix="pass --force to replace it, or convert into another folder with --run",
            )  # fmt: skip

    def discard_results(self) -> None:
        """Forget what was made from an earlier pruned model: reports and exports speak of another net now."""
        for name in MADE:
            folder = self.path / name
            for path in folder.iterdir() if folder.is_dir() else ():
                if is_own(path):
                    path.unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()  # unless something else lies there
            self.manifest.get("stages", {}).pop(name, None)
        self.plan.unlink(missing_ok=True)
