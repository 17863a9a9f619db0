"""Training in 16 bits on a real data set: it learns, and a killed run ends with the bits of one that was not."""

import functools
import math

import pytest
import torch

from hetcompress.checkpointing import Checkpoints
from hetcompress.conversion import convert
from hetcompress.data import open_data
from hetcompress.finetuning import finetune
from hetcompress.goals import ShapeSettings
from hetcompress.learners import BlendLearner
from hetcompress.models import MODELS
from hetcompress.nn import LearnableHetConv2d
from hetcompress.reporters import Silent
from hetcompress.shapes import build_family
from hetcompress.training import TrainSettings

STEPS = 12
LEARNING = 40
"""Steps after which something must have been learned."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture
def digits_data():
    pytest.importorskip("sklearn")
    return open_data("digits", root=None, mean=(0.5,), std=(0.5,), image_size=(1, 8, 8), augment=None, workers=0)


class Killed(BaseException):
    """What no one catches, as little as a kill."""


class KillAt(Silent):
    """Ends the run after a step, with no chance to save."""

    def __init__(self, step):
        self.step = step

    def progressed(self, step, total, losses):
        assert all(map(math.isfinite, losses.values()))
        if step == self.step:
            raise Killed


def train(data, checkpoint, amp, *, steps=STEPS, ema=0.9, kill_at=None):
    torch.manual_seed(0)
    source = MODELS["digits_net"].build(width=8)
    model = convert(source, family=build_family("free"), group_out=4, group_in=1).model
    return finetune(
        model, source, data,
        train=TrainSettings(
            epochs=1, max_steps=steps, batch_size=32, lr=0.05, amp_dtype=amp, distill=0.0, features=0.0, ema=ema
        ),
        shapes=ShapeSettings(density=0.5, stage1=0.5, every=2, recalibration=2),
        checkpoints=Checkpoints(checkpoint, every=2), reporter=KillAt(kill_at),
    )  # fmt: skip


@pytest.mark.parametrize("amp", DTYPES)
def test_it_computes_in_16_bits_and_learns(digits_data, tmp_path, amp, monkeypatch):
    seen = set()
    forward = LearnableHetConv2d._conv_forward

    def noting(self, images, weight, bias):
        output = forward(self, images, weight, bias)
        if self.training:
            seen.add(output.dtype)
        return output

    monkeypatch.setattr(LearnableHetConv2d, "_conv_forward", noting)
    result = train(digits_data, tmp_path / "run.ckpt", amp, steps=LEARNING, ema=0.0)
    assert seen == {DTYPES[amp]}
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}
    assert result.epochs[-1]["step"] == LEARNING
    assert result.accuracies["after stage 2"].loss < result.accuracies["source"].loss


def test_steps_of_float16_that_overflow_leave_scores_alone(digits_data, tmp_path, monkeypatch):
    """The scale is found by trial: the first one here is too large by far."""
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**30)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    taken, choose = [], BlendLearner.final_logits

    def noting(self):
        taken.append(self.scores())
        return choose(self)

    monkeypatch.setattr(BlendLearner, "final_logits", noting)
    result = train(digits_data, tmp_path / "run.ckpt", "float16", steps=80, ema=0.0)
    assert taken
    for scores in taken:
        assert all(score.isfinite().all() for score in scores.values())
        assert any((score > 0).any() for score in scores.values())
    assert result.epochs[-1]["density"] == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("amp", DTYPES)
@pytest.mark.parametrize("kill_at", [3, 9])
def test_killed_and_resumed_ends_with_the_same_bits(digits_data, tmp_path, amp, kill_at):
    whole = train(digits_data, tmp_path / "whole.ckpt", amp)
    with pytest.raises(Killed):
        train(digits_data, tmp_path / "killed.ckpt", amp, kill_at=kill_at)
    resumed = train(digits_data, tmp_path / "killed.ckpt", amp)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert whole.accuracies == resumed.accuracies
