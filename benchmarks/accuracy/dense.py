"""Train a net of the package from random weights: the source of recipes whose net no public checkpoint has.

    python benchmarks/accuracy/dense.py vgg16_bn --out vgg16_bn.pt --data-root DIR

No image of the test set is looked at before the end.  An interrupted run goes on from its state, which is kept beside
--out.  What came out is written beside it as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import time
from pathlib import Path

import torch

from hetcompress.checkpointing import load_checkpoint, save_checkpoint
from hetcompress.data import open_data
from hetcompress.evaluation import EVALUATION_BATCH, evaluate
from hetcompress.files import write_bytes, write_text
from hetcompress.machine import machine
from hetcompress.models import MODELS
from hetcompress.training import Trainer, TrainSettings


def options_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=list(MODELS))
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--cutout", type=int, default=8)
    parser.add_argument("--smoothing", type=float, default=0.0, help="of labels")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of the weights' average that is kept; 0 is off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the state dict")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    return options


def main() -> None:
    """Train one net."""
    options = options_of()
    torch.manual_seed(options.seed)
    model, spec = MODELS[options.net].build().to(memory_format=torch.channels_last), MODELS[options.net].input_spec
    data = open_data(
        options.data, root=options.data_root, mean=spec.mean, std=spec.std, image_size=spec.size,
        augment={"cutout": options.cutout},
    )  # fmt: skip
    settings = TrainSettings(
        epochs=options.epochs, lr=options.lr, weight_decay=5e-4, distill=0.0, features=0.0, smoothing=options.smoothing,
        ema=options.ema, seed=options.seed,
    )  # fmt: skip
    chosen = {"net": options.net, "data": options.data, "cutout": options.cutout, "train": dataclasses.asdict(settings)}
    steps = options.epochs * (data.train_size // settings.batch_size)
    trainer = Trainer(model, data, settings, total_steps=steps, teacher=None, device=torch.device("cpu"))
    state, first = options.out.with_suffix(".state"), 0
    if state.exists():
        saved = load_checkpoint(state)
        if saved["chosen"] != json.dumps(chosen):
            raise SystemExit(f"{state} is of other settings: {saved['chosen']}")
        first = saved["step"]
        trainer.load_state_dict(saved["trainer"])
    began = time.perf_counter()

    def after_step(step: int) -> None:
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"step {step} of {steps}, {seconds:.0f} s, loss {trainer.losses['task']:.4f}", flush=True)
        if step % trainer.steps_per_epoch == 0:
            save_checkpoint(state, {"step": step, "chosen": json.dumps(chosen), "trainer": trainer.state_dict()})

    trainer.run(first, steps, stage=(0, steps), hook=None, after_step=after_step)
    model = trainer.best_model
    accuracy = evaluate(model, data.test_batches(EVALUATION_BATCH))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_bytes(options.out, buffer.getbuffer())
    state.unlink(missing_ok=True)
    result = {
        **chosen, "correct": accuracy.correct, "total": accuracy.total, "split": data.test_note or "all test images",
        "machine": dataclasses.asdict(machine()),
    }  # fmt: skip
    write_text(options.out.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
