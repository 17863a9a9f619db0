"""What is converted, what is not and why."""

import pytest
import torch
from torch import nn

from hetcompress.conversion import convert, plan_conversion
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.nn import LearnableHetConv2d
from hetcompress.shapes import FreeShapes
from hetcompress.surgery import named_modules_of, replace_modules_


class Odd(nn.Conv2d):
    """A subclass that nobody registered."""


class Zoo(nn.Module):
    """One of everything."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.plain
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.odd = Odd(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 1)
        self.tied = nn.Conv2d(8, 8, 1)
        self.knot = nn.Conv2d(8, 8, 1)
        self.knot.weight = self.tied.weight

    def forward(self, x):
        x = self.again(self.plain(self.stem(x)))
        return self.knot(self.tied(self.up(self.odd(self.pointwise(self.depthwise(x))))))


def test_every_convolution_is_listed_with_its_reason():
    reasons = {plan.name: plan.reason for plan in plan_conversion(Zoo())}
    assert reasons == {
        "stem": "first convolution",
        "plain": "",
        "depthwise": "depthwise",
        "pointwise": "",
        "odd": "Odd is a subclass of Conv2d that is not registered as convertible",
        "up": "ConvTranspose2d is not supported",
        "tied": "shares its weight with knot",
        "knot": "shares its weight with tied",
    }


def test_shared_module_is_converted_once_under_every_name():
    zoo = Zoo()
    new = convert(zoo, family=FreeShapes(), group_out=4, group_in=1).model
    assert new.plain is new.again
    assert list(named_modules_of(new, LearnableHetConv2d)) == ["plain", "pointwise"]
    assert not named_modules_of(zoo, LearnableHetConv2d), "the source is left alone"
    images = torch.randn(1, 3, 6, 6)
    assert torch.equal(new(images), zoo(images))


def test_include_overrides_defaults_and_exclude_wins():
    plans = {p.name: p for p in plan_conversion(Zoo(), include=["stem", "p*", "depth*", "odd"], exclude=["point*"])}
    assert [name for name, plan in plans.items() if plan.converted] == ["stem", "plain", "depthwise"]
    assert plans["pointwise"].reason == "matched by --exclude"
    assert "not registered" in plans["odd"].reason
    assert plans["up"].reason == "ConvTranspose2d is not supported"


def test_pattern_without_a_match_is_an_error_with_a_suggestion():
    with pytest.raises(UsageError, match=r"--exclude 'plian'.*did you mean 'plain'\?"):
        plan_conversion(Zoo(), exclude=["plian"])


def test_nothing_to_convert():
    with pytest.raises(NothingToDoError, match=r"no convolution was converted.*0: first convolution") as error:
        convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), family=FreeShapes())
    assert error.value.exit_code == 4
    with pytest.raises(NothingToDoError, match="the model has none"):
        convert(nn.Sequential(nn.Linear(3, 8)), family=FreeShapes())


def test_parametrised_convolution_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    nn.utils.parametrizations.weight_norm(model[1])
    assert "not registered" in plan_conversion(model)[1].reason


def test_replacing_the_model_itself():
    conv, new = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    assert replace_modules_(conv, {"": new}) is new
