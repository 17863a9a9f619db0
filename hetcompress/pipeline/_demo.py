"""The whole pipeline, offline, on scikit-learn's handwritten digits."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import torch

from hetcompress.data import open_data
from hetcompress.errors import UsageError
from hetcompress.evaluation import EVALUATION_BATCH, Accuracy, evaluate
from hetcompress.files import write_bytes
from hetcompress.goals import ShapeSettings
from hetcompress.models import parse_architecture
from hetcompress.models.architectures import input_spec_of
from hetcompress.pipeline._common import DataSettings, Pruned
from hetcompress.pipeline._convert import Converted, convert
from hetcompress.pipeline._export import ExportReport, export
from hetcompress.pipeline._finetune import finetune
from hetcompress.pipeline._report import Report, report
from hetcompress.reporters import Reporter
from hetcompress.training import Trainer, TrainSettings

__all__ = ["Demo", "demo", "train_digits"]

ARCHITECTURE = "hetcompress:digits_net"
DENSE_EPOCHS, EPOCHS = 12, 16
MAC_RATIO = 3.0
STAGE1, LR = 0.4, 0.05
"""Few steps make an epoch of this small set, and shapes need some hundred to settle."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """What each step of the demonstration returned."""

    checkpoint: Path
    dense: Accuracy
    converted: Converted
    finetuned: Pruned
    report: Report
    exported: ExportReport


def train_digits(checkpoint: Path, reporter: Reporter) -> Accuracy:
    """Train a small net on handwritten digits and write its state dict.

    Raises:
        InputError: scikit-learn is not installed.
    """
    torch.manual_seed(0)
    architecture = parse_architecture(ARCHITECTURE, {})
    model = architecture.build()
    spec = input_spec_of(architecture, model)
    assert spec is not None
    data = open_data(
        "digits", root=None, mean=spec.mean, std=spec.std, image_size=spec.size, augment=None, workers=0
    )  # fmt: skip
    settings = TrainSettings(epochs=DENSE_EPOCHS, batch_size=64, lr=0.05, distill=0.0, features=0.0)
    total = DENSE_EPOCHS * (data.train_size // settings.batch_size)
    trainer = Trainer(model, data, settings, total_steps=total, teacher=None, device=torch.device("cpu"))
    trainer.run(
        0, total, stage=(0, total), hook=None,
        after_step=lambda step: reporter.progressed(step, total, trainer.losses),
    )  # fmt: skip
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_bytes(checkpoint, buffer.getbuffer())
    return evaluate(model, data.test_batches(EVALUATION_BATCH))


def demo(folder: Path, *, reporter: Callable[[], Reporter], announce: Callable[[str], None]) -> Demo:
    """Train, convert, fine-tune, report and export, each as the commands of the same name do.

    Args:
        folder: A new folder for the checkpoint and the run.
        reporter: Makes the listener of one training.
        announce: Told the command that each step stands for.

    Raises:
        UsageError: The folder exists.
        InterruptedRunError: A signal came.
    """
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise UsageError(f"--out {folder}", expected="a new folder", found="one with files", fix="name another folder")
    checkpoint, run = folder / "digits.pt", folder / "hetrun"
    announce("training a small net on handwritten digits")
    dense = train_digits(checkpoint, reporter())
    announce(f"hetcompress convert {checkpoint} --run {run} --family centre")
    converted = convert(checkpoint, run=run, family="centre")
    announce(
        f"hetcompress finetune --run {run} --data digits --mac-ratio {MAC_RATIO:g} --epochs {EPOCHS} -b 64 "
        f"--stage1 {STAGE1:g} --lr {LR:g}"
    )
    finetuned = finetune(
        run,
        data=DataSettings("digits"),
        train=TrainSettings(epochs=EPOCHS, batch_size=64, lr=LR),
        shapes=ShapeSettings(mac_ratio=MAC_RATIO, stage1=STAGE1),
        reporter=reporter(),
    )
    announce(f"hetcompress report --run {run} --seconds 0.5")
    reported = report(run, seconds=0.5)
    announce(f"hetcompress export --run {run} --onnx --seconds 0.5")
    exported = export(("onnx",), run, seconds=0.5)
    return Demo(checkpoint, dense, converted, finetuned, reported, exported)
