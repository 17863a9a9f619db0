"""Train a net of the package from random weights: the source of recipes whose net no public checkpoint has.

    python benchmarks/accuracy/dense.py vgg16_bn --out vgg16_bn.pt --data-root DIR

For few epochs: Muon for the weights between the first and the last layer (K. Jordan et al., 2024; `torch.optim.Muon`),
SGD for the rest, and smaller images at first.  No image of the test set is looked at before the end.  An interrupted
run goes on from its last epoch, which is kept beside --out.  What came out is written beside it as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.checkpointing import load_checkpoint, save_checkpoint
from hetcompress.data import open_data
from hetcompress.evaluation import EVALUATION_BATCH, evaluate
from hetcompress.files import write_bytes, write_text
from hetcompress.machine import machine
from hetcompress.models import MODELS
from hetcompress.schedules import learning_rate_factor
from hetcompress.training import amp_dtype

WARMUP, MOMENTUM, WEIGHT_DECAY = 0.15, 0.9, 5e-4
"""Share of the epochs over which learning rates rise, and of SGD's weights: their decay."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def options_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=list(MODELS))
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--muon-lr", type=float, default=0.05)
    parser.add_argument("--muon-decay", type=float, default=0.1, help="of weights that Muon trains, decoupled")
    parser.add_argument("--lr", type=float, default=0.1, help="of the rest, by SGD")
    parser.add_argument("--cutout", type=int, default=8)
    parser.add_argument("--smoothing", type=float, default=0.1, help="of labels")
    parser.add_argument("--small-size", type=int, default=24, help="side of the images that it begins with")
    parser.add_argument("--small-share", type=float, default=0.45, help="of the epochs that have them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the state dict")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    return options


class Optimisers:
    """Muon for the weights between the first and the last layer, SGD for all else."""

    def __init__(self, model: nn.Module, options: argparse.Namespace) -> None:
        weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        # Muon takes matrices: views of the kernels in their own memory order, so that what it changes are the weights
        self._pairs = [(weight, nn.Parameter(_matrix(weight.data))) for weight in weights[1:-1]]
        if any(weight.data_ptr() != matrix.data_ptr() for weight, matrix in self._pairs):
            raise SystemExit("a kernel is no matrix in memory: keep the net in channels_last")
        matrices = [matrix for _, matrix in self._pairs]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        rest = [
            {"params": [weights[0], weights[-1]], "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon(matrices, lr=options.muon_lr, weight_decay=options.muon_decay, momentum=MOMENTUM)
        sgd = torch.optim.SGD(rest, lr=options.lr, momentum=MOMENTUM, nesterov=True)
        self._all = ((muon, options.muon_lr), (sgd, options.lr))

    def step(self, factor: float) -> None:
        """Take a step at `factor` times the highest learning rates."""
        for weight, matrix in self._pairs:
            assert weight.grad is not None
            matrix.grad = _matrix(weight.grad)
        for optimiser, highest in self._all:
            for group in optimiser.param_groups:
                group["lr"] = highest * factor
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return what moves of both."""
        return [optimiser.state_dict() for optimiser, _ in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take it up again."""
        for (optimiser, _), state in zip(self._all, states, strict=True):
            optimiser.load_state_dict(state)


def _matrix(weight: Tensor) -> Tensor:
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).reshape(len(weight), -1)


def build(net: str) -> nn.Module:
    """Return the net; its pooling leaves a pixel of small images, and does the same as ever to others."""
    model = MODELS[net].build().to(DEVICE, memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
    return model


def train(model: nn.Module, options: argparse.Namespace, chosen: str) -> None:
    """Train all epochs, or those that an interrupted run has left."""
    spec = MODELS[options.net].input_spec
    data = open_data(
        options.data, root=options.data_root, mean=spec.mean, std=spec.std, image_size=spec.size,
        augment={"cutout": options.cutout},
    )  # fmt: skip
    optimisers, state, first = Optimisers(model, options), options.out.with_suffix(".state"), 0
    if state.exists():
        saved = load_checkpoint(state)
        if saved["chosen"] != chosen:
            raise SystemExit(f"{state} is of other settings: {saved['chosen']}")
        first = saved["epoch"]
        model.load_state_dict(saved["model"])
        optimisers.load_state_dict(saved["optimisers"])
    per_epoch, dtype, began = data.train_size // options.batch_size, amp_dtype("auto", DEVICE), time.time()
    for epoch in range(first, options.epochs):
        small, mean = epoch < options.small_share * options.epochs, 0.0
        model.train()
        batches = data.train_batches(options.batch_size, seed=options.seed, epoch=epoch)
        for number, (images, labels) in enumerate(batches):
            images, labels = images.to(DEVICE), labels.to(DEVICE)
            if small:
                images = F.interpolate(images, size=options.small_size, mode="bilinear", antialias=True)
            with torch.autocast(DEVICE.type, dtype=dtype, enabled=dtype != torch.float32):
                scores = model(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores.float(), labels, label_smoothing=options.smoothing)
            if not math.isfinite(loss.item()):
                raise SystemExit(f"epoch {epoch + 1}: the loss is {loss.item()}; lower --muon-lr or --lr")
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            progress = (epoch * per_epoch + number) / (options.epochs * per_epoch)
            optimisers.step(learning_rate_factor(progress, sched="cosine", warmup=WARMUP))
            mean += loss.item() / per_epoch
        print(f"epoch {epoch + 1} of {options.epochs}, {time.time() - began:.0f} s, loss {mean:.4f}", flush=True)
        moving = {"model": model.state_dict(), "optimisers": optimisers.state_dict()}
        save_checkpoint(state, {"epoch": epoch + 1, "chosen": chosen, **moving})


def main() -> None:
    """Train one net."""
    options = options_of()
    torch.manual_seed(options.seed)
    model, spec = build(options.net), MODELS[options.net].input_spec
    chosen = {name: value for name, value in vars(options).items() if name not in ("out", "data_root")}
    train(model, options, json.dumps(chosen))
    data = open_data(options.data, root=options.data_root, mean=spec.mean, std=spec.std, image_size=spec.size)
    model.cpu()
    accuracy = evaluate(model, data.test_batches(EVALUATION_BATCH))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_bytes(options.out, buffer.getbuffer())
    options.out.with_suffix(".state").unlink(missing_ok=True)
    result = {
        **chosen, "correct": accuracy.correct, "total": accuracy.total, "split": data.test_note or "all test images",
        "machine": dataclasses.asdict(machine()),
    }  # fmt: skip
    write_text(options.out.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
