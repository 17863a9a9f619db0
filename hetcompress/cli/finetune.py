"""``hetcompress finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from hetcompress.cli.options import (
    Arch,
    Data,
    DataRoot,
    Download,
    Json,
    KernelsOnTheWay,
    LatencyRatio,
    OneBatch,
    Run,
    Target,
    Threads,
    plan_settings,
)
from hetcompress.cli.recipes import FromRecipe, recorded, say_what_differs

__all__ = ["finetune"]

# typer reads Optional[...] on every supported Python
OptionalFloat = Optional[float]  # noqa: UP045
OptionalInt = Optional[int]  # noqa: UP045
OptionalText = Optional[str]  # noqa: UP045
OptionalBool = Optional[bool]  # noqa: UP045

TARGET, SHAPES, TRAINING, DATA, RUNNING = "Target", "Shapes", "Training", "Data", "Running"


def finetune(
    recipe: FromRecipe = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    run: Run = Path("hetrun"),
    density: Annotated[
        OptionalFloat, typer.Option(help="Kept over all weights of the converted layers.", rich_help_panel=TARGET)
    ] = None,
    mac_ratio: Annotated[
        OptionalFloat,
        typer.Option(
            help="Dense over kept MACs of the model [2]; with --density, the harder decides.", rich_help_panel=TARGET
        ),
    ] = None,
    latency_ratio: LatencyRatio = None,
    target: Target = "ort-cpu",
    batch: OneBatch = 1,
    threads: Threads = 1,
    kernels: KernelsOnTheWay = None,
    method: Annotated[
        str,
        typer.Option(help="How shapes are learned: blend, sensitivity, magnitude or penalty.", rich_help_panel=SHAPES),
    ] = "blend",
    penalty: Annotated[
        OptionalText, typer.Option(help="Of method penalty: density, macs or latency.", rich_help_panel=SHAPES)
    ] = None,
    stage1: Annotated[
        OptionalFloat,
        typer.Option(
            help="Share of the steps that learn shapes [the less is kept, the more: 0.3 at MAC ratio 2, 0.6 at 5].",
            rich_help_panel=SHAPES,
        ),
    ] = None,
    ramp: Annotated[
        float,
        typer.Option(
            help="Share of stage 1 over which the budget tightens; of method penalty, half of it phases in the penalty "
            "and the masks.",
            rich_help_panel=SHAPES,
        ),
    ] = 0.95,
    calibration: Annotated[
        float,
        typer.Option(help="Of method penalty: share of stage 1 whose loss sets its weight.", rich_help_panel=SHAPES),
    ] = 0.1,
    epochs: Annotated[
        float, typer.Option(help="Passes over the data, both stages; may end in a part.", rich_help_panel=TRAINING)
    ] = 3.5,
    max_steps: Annotated[
        OptionalInt, typer.Option(help="At most this many steps, for a smoke run.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", rich_help_panel=TRAINING)] = 128,
    opt: Annotated[str, typer.Option(help="sgd (Nesterov), momentum or adamw.", rich_help_panel=TRAINING)] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=TRAINING)] = 0.03,
    momentum: Annotated[float, typer.Option(rich_help_panel=TRAINING)] = 0.9,
    weight_decay: Annotated[float, typer.Option("--weight-decay", "--wd", rich_help_panel=TRAINING)] = 1e-4,
    sched: Annotated[
        str, typer.Option(help="cosine, onecycle, multistep or constant.", rich_help_panel=TRAINING)
    ] = "cosine",
    milestone: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(
            help="Of sched multistep: share of the run after which the learning rate falls, 0.5 after half of the "
            "epochs; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    decay_rate: Annotated[
        float,
        typer.Option(help="Of sched multistep: what the rate is multiplied by each time.", rich_help_panel=TRAINING),
    ] = 0.1,
    warmup: Annotated[
        float, typer.Option(help="Share of the run over which the learning rate rises.", rich_help_panel=TRAINING)
    ] = 0.1,
    smoothing: Annotated[float, typer.Option("--smoothing", "--label-smoothing", rich_help_panel=TRAINING)] = 0.0,
    distill: Annotated[
        float,
        typer.Option(help="Weight of distillation from the source's class scores; 0 is off.", rich_help_panel=TRAINING),
    ] = 0.9,
    temperature: Annotated[
        float, typer.Option(help="Of the distillation from class scores.", rich_help_panel=TRAINING)
    ] = 4.0,
    features: Annotated[
        float,
        typer.Option(
            help="Weight of distillation from what the source's layers read; 0 is off; less suits long runs.",
            rich_help_panel=TRAINING,
        ),
    ] = 30.0,
    amp_dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=TRAINING)
    ] = "auto",
    channels_last: Annotated[bool, typer.Option("--channels-last/--no-channels-last", rich_help_panel=TRAINING)] = True,
    clip_grad: Annotated[float, typer.Option(help="Largest gradient norm; 0 is off.", rich_help_panel=TRAINING)] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of a weight average; 0 is off.", rich_help_panel=TRAINING)] = 0.0,
    logit_lr: Annotated[
        float, typer.Option(help="Learning rate of shape logits over that of weights.", rich_help_panel=TRAINING)
    ] = 1.0,
    seed: Annotated[int, typer.Option(rich_help_panel=TRAINING)] = 0,
    crop_padding: Annotated[OptionalInt, typer.Option(help="Of random crops.", rich_help_panel=DATA)] = None,
    flip: Annotated[OptionalBool, typer.Option("--flip/--no-flip", rich_help_panel=DATA)] = None,
    cutout: Annotated[OptionalInt, typer.Option(help="Side of a blanked square.", rich_help_panel=DATA)] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-j", help="For data that do not fit memory.", rich_help_panel=DATA)
    ] = 2,
    stage: Annotated[str, typer.Option(help="both, or fine after `prune`.", rich_help_panel=RUNNING)] = "both",
    resume: Annotated[
        str, typer.Option(help="auto goes on where the same run stopped; never starts anew.", rich_help_panel=RUNNING)
    ] = "auto",
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=RUNNING)
    ] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=RUNNING)] = "auto",
    arch: Arch = None,
    json_out: Json = False,
) -> None:
    """Learn kernel shapes and weights towards a target, prune to it exactly, then train the weights.

    Accuracy is shown at every step. Stops at a signal with its state saved; the same command goes on from there.
    """
    from hetcompress import pipeline
    from hetcompress.cli import console, progress
    from hetcompress.cli.data import data_settings
    from hetcompress.cli.pruned import say_what_stays, say_which_decided
    from hetcompress.goals import ShapeSettings
    from hetcompress.training import TrainSettings

    settings = data_settings(
        data, data_root, download=download, workers=workers, crop_padding=crop_padding, flip=flip, cutout=cutout
    )
    train = TrainSettings(
        epochs=epochs, max_steps=max_steps, batch_size=batch_size, opt=opt, lr=lr, momentum=momentum,
        weight_decay=weight_decay, sched=sched, warmup=warmup,
        milestones=tuple(milestone or ()), decay_rate=decay_rate, smoothing=smoothing, distill=distill,
        temperature=temperature, features=features, amp_dtype=amp_dtype, channels_last=channels_last,
        clip_grad=clip_grad, ema=ema, logit_lr=logit_lr, seed=seed,
    )  # fmt: skip
    shapes = ShapeSettings(
        density=density, mac_ratio=mac_ratio, latency_ratio=latency_ratio, method=method, penalty=penalty,
        stage1=stage1, ramp=ramp, calibration=calibration,
    )  # fmt: skip
    say_what_differs(recipe, run)
    with progress.TrainingProgress() as reporter:
        result = pipeline.finetune(
            run, data=settings, train=train, shapes=shapes,
            plan=plan_settings("fast", target, batch, threads, kernels=kernels), arch=arch, stage=stage, resume=resume,
            checkpoint_every=checkpoint_every, device=device, recipe=recorded(recipe), reporter=reporter,
        )  # fmt: skip
    say_which_decided(density, mac_ratio, result)
    if json_out:
        console.print_json({"command": "finetune", "result": result})
        return
    rows = [[name, f"{value.percent:.2f} %", f"{value.loss:.4f}"] for name, value in result.accuracies.items()]
    console.say(console.table("Accuracy on the test images", ["", "top-1", "loss"], rows))
    *_, final = result.accuracies.values()
    console.result(
        f"density {result.density:.4f}, MAC ratio {result.mac_ratio:.3f} (effective), accuracy {final.percent:.2f} %, "
        f"in {result.run}"
    )
    if result.time is not None:
        console.result(str(result.time))
    if stage != "fine":  # which has no target
        say_what_stays(density, mac_ratio, result)
