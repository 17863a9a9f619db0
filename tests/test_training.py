"""Training: what is resumed ends with the same bits; what learns reaches its target."""

import dataclasses
import json
import os
import signal

import pytest
import torch
from torch import nn

from hetcompress import training
from hetcompress.checkpointing import Checkpoints, InterruptedRunError, load_checkpoint, save_checkpoint
from hetcompress.conversion import convert
from hetcompress.errors import HetCompressError, InputError, NothingToDoError, UsageError
from hetcompress.finetuning import finetune
from hetcompress.goals import ShapeSettings
from hetcompress.learners import LEARNERS
from hetcompress.nn import HetConv2d
from hetcompress.reporters import Silent
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of
from hetcompress.training import Trainer, TrainSettings, amp_dtype


class Stripes:
    """Striped images, across or along; easy to tell apart."""

    train_size = 96
    image_size = (3, 8, 8)

    def _images(self, seed, count):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (count,), generator=generator)
        wave = torch.arange(8).remainder(2).float()
        across, along = wave.expand(3, 8, 8), wave[:, None].expand(3, 8, 8)
        clean = torch.stack([along if label else across for label in labels])
        return clean + 0.3 * torch.randn(clean.shape, generator=generator), labels

    def train_batches(self, batch_size, *, seed, epoch, start=0):
        for index in range(start, self.train_size // batch_size):
            yield self._images(hash((seed, epoch, index)) % 2**31, batch_size)

    def test_batches(self, batch_size):
        yield self._images(7, 64)


def net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def converted(family="free"):
    return convert(net(), family=build_family(family), group_out=1, group_in=1).model


class StopAt(Silent):
    """Sends this process a signal at a step, as a user or a scheduler would."""

    def __init__(self, step, signum=signal.SIGTERM):
        self.step, self.signum = step, signum

    def progressed(self, step, total, losses):
        if step == self.step:
            os.kill(os.getpid(), self.signum)


def run(tmp_path, name, *, train=None, shapes=None, family="free", kept=None, **options):
    # the source of these runs is untrained: it is no good teacher
    train = train or TrainSettings(epochs=3, batch_size=16, lr=0.05, distill=0.3, features=0.0)
    shapes = shapes or ShapeSettings(density=0.5, every=2)
    return finetune(
        converted(family), net(), Stripes(), train=train, shapes=shapes,
        checkpoints=Checkpoints(tmp_path / f"{name}.ckpt", **(kept or {})), **options,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["blend", "sensitivity", "magnitude", "penalty"])
@pytest.mark.parametrize("stop", [3, 7, 9, 13])
def test_resumed_run_ends_with_the_same_bits(tmp_path, method, stop):
    settings = {
        # 18 steps: stage 1 ends at the 9th
        "shapes": ShapeSettings(mac_ratio=1.5, method=method, every=2, stage1=0.5),
        "train": TrainSettings(epochs=3, batch_size=16, lr=0.05, ema=0.9, clip_grad=1.0, smoothing=0.1),
    }
    whole = run(tmp_path, "whole", **settings)
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM; the state is saved") as error:
        run(tmp_path, "cut", reporter=StopAt(stop), **settings)
    assert error.value.exit_code == 143
    resumed = run(tmp_path, "cut", **settings)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert list(whole.accuracies) == list(resumed.accuracies)
    untimed = [{k: v for k, v in line.items() if k != "images_per_second"} for line in whole.epochs]
    assert untimed == [{k: v for k, v in line.items() if k != "images_per_second"} for line in resumed.epochs]


class StopAfter(Silent):
    """Sends this process a signal when an accuracy has been measured, or an epoch written down."""

    def __init__(self, what):
        self.what = what

    def measured(self, when, accuracy):
        if when == self.what:
            os.kill(os.getpid(), signal.SIGTERM)

    def epoch(self, line):
        if line["epoch"] == self.what:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("when", ["after stage 1", "after pruning", 1, 2])
def test_signals_are_answered_while_accuracy_is_measured(tmp_path, when):
    whole = run(tmp_path, "whole")
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM; the state is saved"):
        run(tmp_path, "cut", reporter=StopAfter(when))
    resumed = run(tmp_path, "cut")
    assert all(
        torch.equal(a, b) for a, b in zip(*(one.model.state_dict().values() for one in (whole, resumed)), strict=True)
    )
    assert whole.accuracies == resumed.accuracies
    assert [line["accuracy"] for line in whole.epochs] == [line["accuracy"] for line in resumed.epochs]


def test_before_the_first_step_there_is_no_state(tmp_path):
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM; no state is saved"):
        run(tmp_path, "run", reporter=StopAfter("source"))
    assert not (tmp_path / "run.ckpt").exists()


class Heard(Silent):
    """Remembers what it was warned of."""

    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


def test_whoever_goes_on_is_told_again_that_the_target_is_too_hard(tmp_path, monkeypatch):
    monkeypatch.setattr("hetcompress.difficulty.LIMIT", -1.0)  # whatever is lost is too much
    shapes = ShapeSettings(mac_ratio=1.5, stage1=0.5, method="magnitude", every=2)
    for stop in (5, 12):  # before the end of stage 1 and after it
        with pytest.raises(InterruptedRunError):
            run(tmp_path, f"cut {stop}", shapes=shapes, reporter=StopAt(stop))
        heard = Heard()
        run(tmp_path, f"cut {stop}", shapes=shapes, reporter=heard)
        assert sum("MAC ratio 1.5 is hard" in message for message in heard.said) == 1


@pytest.mark.parametrize("method", ["blend", "sensitivity", "magnitude", "penalty"])
@pytest.mark.parametrize("family", ["free", "rigid", "centre"])
def test_target_is_met_and_the_task_is_learned(tmp_path, method, family):
    shapes = ShapeSettings(density=0.4, method=method, every=2, stage1=0.16)
    result = run(tmp_path, "run", shapes=shapes, family=family)
    layers = named_modules_of(result.model, HetConv2d).values()
    kept = sum(int(layer.mask().sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
    assert kept == pytest.approx(0.4, rel=0.01)
    assert result.accuracies["after stage 2"].percent > 90
    assert list(result.accuracies) == [
        "source", "converted", "after stage 1", "after pruning", "after recalibration", "after stage 2",
    ]  # fmt: skip
    assert result.accuracies["source"] == result.accuracies["converted"]
    assert [line["epoch"] for line in result.epochs] == [1, 2, 3]
    assert json.dumps(result.epochs)
    assert {
        "loss",
        "task",
        "distillation",
        "features",
        "penalty",
        "density",
        "mac_ratio",
        "accuracy",
        "learning_rate",
    } <= set(result.epochs[0])


def test_penalty_moves_logits(tmp_path):
    shapes = ShapeSettings(density=0.4, method="penalty", stage1=0.9)
    train = TrainSettings(epochs=3, batch_size=16, lr=0.05, logit_lr=50.0)
    line = run(tmp_path, "penalty", shapes=shapes, train=train).epochs[1]
    assert line["penalty"] > 0
    assert line["density"] < 1


@pytest.mark.parametrize("method", [name for name in LEARNERS if name != "penalty"])
def test_schedules_choose_and_the_optimiser_leaves_logits_alone(tmp_path, method):
    """However fast they were to learn."""
    shapes = ShapeSettings(density=0.4, method=method, stage1=0.9, every=2)  # 43 of 48 steps
    lines = [
        run(
            tmp_path, f"{logit_lr}", shapes=shapes, train=TrainSettings(epochs=8, batch_size=16, logit_lr=logit_lr)
        ).epochs
        for logit_lr in (1.0, 50.0)
    ]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    assert {line["penalty"] for line in lines[0]} == {0.0}
    assert min(line["density"] for line in lines[0] if line["stage"] == 1) < 1


def test_a_stage_1_too_short_to_choose_in_says_so(tmp_path):
    heard = Heard()
    run(tmp_path, "short", shapes=ShapeSettings(density=0.4, stage1=0.5), reporter=heard)
    (said,) = heard.said  # and nothing of a target that is too hard
    assert said.startswith(
        "stage 1 ends after step 9, before --method blend first chooses shapes: all are chosen at once"
    )
    assert "--stage1" in said
    heard = Heard()
    run(
        tmp_path,
        "magnitude",
        shapes=ShapeSettings(density=0.4, stage1=0.5, method="magnitude", every=2),
        reporter=heard,
    )
    assert not any("first chooses" in message for message in heard.said)


@pytest.mark.parametrize(("density", "stages"), [(0.5, [2, 2, 2]), (0.2, [1, 2, 2])])
def test_stage_1_is_longer_where_less_is_kept(tmp_path, density, stages):
    result = run(tmp_path, "run", shapes=ShapeSettings(density=density, every=2))
    assert [line["stage"] for line in result.epochs] == stages


def test_the_last_epoch_may_be_a_part(tmp_path):
    steps = Stripes().train_size // 16
    result = run(tmp_path, "part", train=TrainSettings(epochs=1.5, batch_size=16, lr=0.05, features=0.0))
    assert [line["step"] for line in result.epochs] == [steps, round(1.5 * steps)]


def test_max_steps_shortens_the_run(tmp_path):
    result = run(tmp_path, "short", train=TrainSettings(epochs=3, batch_size=16, max_steps=5))
    assert result.epochs[-1]["step"] == 5
    assert len(result.epochs) == 1


@pytest.mark.parametrize("opt", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("amp", ["bfloat16", "float32"])
def test_optimisers_and_precisions(tmp_path, opt, amp):
    train = TrainSettings(
        epochs=3,
        batch_size=16,
        lr=0.01 if opt == "adamw" else 0.05,
        opt=opt,
        amp_dtype=amp,
        sched="cosine",
        distill=0.3,
        features=0.0,
    )
    assert run(tmp_path, "run", train=train).accuracies["after stage 2"].percent > 70


def test_fixed_family_trains_in_one_stage(tmp_path):
    model = convert(net(), family=build_family("hetconv", {"parts": 2}), group_out=1, group_in=1).model
    train = TrainSettings(epochs=2, batch_size=16, lr=0.05)
    heard = Heard()
    result = finetune(model, net(), Stripes(), train=train, shapes=ShapeSettings(), reporter=heard)
    layers = named_modules_of(result.model, HetConv2d).values()
    kept = sum(int(layer.mask().sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
    assert kept == pytest.approx(5 / 9)
    assert [line["stage"] for line in result.epochs] == [2, 2]
    assert not heard.said


class NoStep(Silent):
    """Fails the test when a step was trained."""

    def progressed(self, step, total, losses):
        raise AssertionError("trained")


@pytest.mark.parametrize(
    ("family", "shapes", "message"),
    [
        ("hetconv", {"density": 0.9}, "target density 0.9 .* Fix: leave the target out: this pattern is fixed"),
        ("hetconv", {"mac_ratio": 9.0}, "target MAC ratio 9 .* Fix: leave the target out"),
        ("free", {"mac_ratio": 500.0}, "target MAC ratio 500 cannot be reached .* MAC ratios 1 to "),
        ("rigid", {"density": 1e-6}, "target density 1e-06 cannot be reached"),
    ],
)
def test_what_cannot_be_reached_is_said_before_training(tmp_path, family, shapes, message):
    options = {"parts": 2} if family == "hetconv" else {}
    model = convert(net(), family=build_family(family, options), group_out=1, group_in=1).model
    train = TrainSettings(epochs=2, batch_size=16)
    with pytest.raises(NothingToDoError, match=message):
        finetune(model, net(), Stripes(), train=train, shapes=ShapeSettings(**shapes), reporter=NoStep())


def test_weight_decay_spares_logits_norms_and_biases():
    trainer = Trainer(
        converted(), Stripes(), TrainSettings(weight_decay=0.1), total_steps=1, teacher=None, device=torch.device("cpu")
    )
    decayed = {p.ndim for group in trainer.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {2, 4}
    shapes = [p.shape for group in trainer.optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    assert (8, 8, 9) in shapes, "logits"


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    with pytest.raises(InterruptedRunError):
        run(tmp_path, "run", reporter=StopAt(3, signal.SIGINT), kept={"fingerprint": "one"})
    with pytest.raises(InputError, match=r"expected one of the same settings.*--resume never"):
        run(tmp_path, "run", kept={"fingerprint": "two"})
    assert run(tmp_path, "run", kept={"fingerprint": "two", "resume": False}).epochs


def test_broken_checkpoint_is_one_clear_error(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"expected a training state written by hetcompress.*--resume never"):
        load_checkpoint(path)
    save_checkpoint(path, {"step": 1})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="expected a training state"):
        load_checkpoint(path)


def test_infinite_loss_stops_with_advice(tmp_path):
    with pytest.raises(HetCompressError, match=r"step \d+: the loss is (nan|inf).*lower --lr"):
        run(tmp_path, "run", train=TrainSettings(epochs=1, batch_size=16, lr=1e30, warmup=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs: expected a positive number, found 0"),
        ({"epochs": float("nan")}, "--epochs: expected a positive number, found nan"),
        ({"lr": float("nan")}, "--lr: expected a positive number, found nan"),
        ({"opt": "adam"}, "--opt: expected sgd, momentum, adamw, found adam"),
        ({"features": -1.0}, r"--features: expected a number of at least 0, found -1.0"),
        ({"distill": 2.0}, r"--distill: expected a number in \[0, 1\], found 2.0"),
        (
            {"sched": "multistep"},
            r"--milestone: expected at least one with --sched multistep, none otherwise, found none with",
        ),
        ({"sched": "multistep", "milestones": (0.5, 1.0)}, r"--milestone: expected shares of the run, in \(0, 1\)"),
        ({"amp_dtype": "int8"}, "--amp-dtype: expected auto or float32"),
    ],
)
def test_senseless_training_settings(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "macs"}, "--penalty: expected --method penalty beside it, found --method blend"),
        ({"density": 0.5, "latency_ratio": 2.0}, "expected one of --density, --mac-ratio, --latency-ratio"),
        ({"density": 0.5, "method": "magic"}, "method 'magic'"),
        (
            {"density": 0.5, "penalty": "macs", "method": "penalty"},
            "--penalty macs: expected a target given by --mac-ratio",
        ),
        (
            {"mac_ratio": 2, "penalty": "latency", "method": "penalty"},
            "--penalty latency: expected a target given by --latency-ratio",
        ),
        ({"density": 0.5, "stage1": 1.0}, "--stage1"),
        ({"density": 0.5, "calibration": 0.0}, "--calibration"),
    ],
)
def test_senseless_shape_settings(settings, message):
    with pytest.raises(UsageError, match=message):
        ShapeSettings(**settings)


def test_batch_larger_than_the_data(tmp_path):
    with pytest.raises(UsageError, match="--batch-size: expected at most the 96 training images, found 100"):
        run(tmp_path, "run", train=TrainSettings(batch_size=100))


@pytest.mark.parametrize("told", [True, False], ids=["by torch", "by the system"])
@pytest.mark.parametrize(("flag", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx512_vnni", torch.float32)])
def test_automatic_precision_follows_the_processor(monkeypatch, told, flag, dtype):
    here = dataclasses.replace(training.machine(), flags=() if told else (flag,))
    monkeypatch.setattr(training, "machine", lambda: here)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if told:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True, "amx_bf16": False}, raising=False)
    assert amp_dtype("auto", torch.device("cpu")) == dtype
    assert amp_dtype("float16", torch.device("cpu")) == torch.float16
