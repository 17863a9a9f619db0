"""All passes over channels, one after another, on random small nets."""

import copy

import pytest
import torch
from hypothesis import given, settings
from strategies import small_nets
from torch import nn

from hetcompress.errors import VerificationError
from hetcompress.flow import Flow
from hetcompress.lowering import tidying
from hetcompress.lowering.sameness import Sameness
from hetcompress.lowering.tidying import PASSES, tidied

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def seen(flow):
    """Return the steps with the shapes that they read and make."""
    return [
        (step.module, [flow.shapes[value] for value in step.reads], step.makes is not None and flow.shapes[step.makes])
        for step in flow.steps
    ]


@settings(max_examples=30, deadline=None)
@given(small_nets())
def test_every_pass_keeps_the_function_and_leaves_nothing_for_a_second_time(model):
    new = model.double()
    with torch.no_grad():
        expected = new(IMAGES)
        for once_or_again in range(2):
            flow = Flow.of(new, IMAGES[:1])
            for tidying_pass in PASSES:
                tidying_pass(new, flow)
                difference = (new(IMAGES) - expected).abs().max() / expected.abs().max().clamp_min(1)
                assert difference < 1e-10, tidying_pass.__name__
                assert seen(flow) == seen(Flow.of(new, IMAGES[:1])), "what a run would show"
            if once_or_again == 0:
                once = [tuple(tensor.shape) for tensor in new.state_dict().values()]
    assert once == [tuple(tensor.shape) for tensor in new.state_dict().values()]


def test_a_wrong_pass_is_caught(monkeypatch):
    def wrong(model, _flow):
        model[0].weight.data[0] *= 1 + 1e-4

    monkeypatch.setattr(tidying, "PASSES", (*PASSES, wrong))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(VerificationError, match=r"channels of the model: expected the same outputs within 1e-05"):
        tidied(model, Sameness.of(model, IMAGES.float()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "left alone"


class Rounding(nn.Module):
    """A net that changes types by itself."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu().float()).mean((2, 3))


def test_a_net_that_changes_types_is_tidied_too():
    model = Rounding().eval()
    model.norm.running_mean.normal_()
    images = torch.randn(2, 3, 9, 9)
    tidy = tidied(model, Sameness.of(model, images))
    assert isinstance(tidy.norm, nn.Identity)
    assert torch.allclose(tidy(images), model(images), atol=1e-5)


class Shallow(nn.Module):
    """Something reads the weights of a convolution besides the convolution."""

    def __init__(self, read):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.read = read

    def forward(self, x):
        x = self.norm(self.first(x))
        return (self.second(x) + self.read(x, self.first.weight, self.second.weight)).mean((2, 3))


@pytest.mark.parametrize(
    "read",
    [
        lambda x, _first, second: nn.functional.conv2d(x, second),
        lambda _x, first, _second: first.abs().mean(),
        lambda x, _first, second: x[:, :, :1, :1] * second.shape[0],
    ],
)
def test_weights_that_something_else_reads_stay(read):
    torch.manual_seed(0)
    model = Shallow(read).eval()
    model.norm.running_mean.normal_()
    images = torch.randn(2, 3, 9, 9)
    assert torch.allclose(tidied(model, Sameness.of(model, images))(images), model(images), atol=1e-5)
