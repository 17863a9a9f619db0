"""Batch-norm statistics after recalibration are the plain averages over its images."""

import copy

import pytest
import torch
from torch import nn

from hetcompress.recalibration import recalibrate_


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(4, 2, 3)
    )
    net.append(nn.BatchNorm2d(2, track_running_stats=False))
    net[0].eval()
    net[1].running_mean.fill_(7.0)
    return net


def test_statistics_are_the_means_over_batches_and_all_else_is_as_it_was(model):
    batches = torch.randn(5, 8, 3, 6, 6).unbind()
    before = copy.deepcopy(model)
    recalibrate_(model, iter(batches))
    with torch.no_grad():
        outputs = [model[0](batch) for batch in batches]
    mean = torch.stack([one.mean((0, 2, 3)) for one in outputs]).mean(0)
    variance = torch.stack([one.var((0, 2, 3)) for one in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.3
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))


def test_without_images_nothing_changes(model):
    before = copy.deepcopy(model.state_dict())
    recalibrate_(model, iter(()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[1].momentum == 0.3
