"""Copies with other modules in some places."""

import torch
from torch import nn

from hetcompress.surgery import copy_with


class Uncopied(nn.Conv2d):
    """Fails the test when it is copied."""

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


def test_what_is_replaced_is_replaced_everywhere_and_never_copied():
    shared = Uncopied(2, 2, 1)
    model = nn.Sequential(shared, nn.BatchNorm2d(2), nn.Sequential(shared, nn.ReLU()))
    new = nn.Identity()
    copied = copy_with(model, {"0": new})
    assert copied[0] is new
    assert copied[2][0] is new
    assert model[0] is shared
    assert copied[1] is not model[1]
    assert torch.equal(copied[1].weight, model[1].weight)


def test_the_whole_model_may_be_replaced():
    new = nn.Identity()
    assert copy_with(Uncopied(2, 2, 1), {"": new}) is new
