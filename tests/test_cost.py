"""Counting, against hand-made formulas, torch's own counter and the papers."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hetcompress.conversion import convert
from hetcompress.cost import count_executed, layer_macs
from hetcompress.models import MODELS
from hetcompress.shapes import HetConvShapes


def conv_macs(model, images):
    """Dense MACs and outputs of each convolution, from output sizes, without memory."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def note(module, inputs, output, name=name):
                taps = module.weight.numel() // module.weight.shape[0]
                found[name] = (output.numel() * taps, output.numel())

            handles.append(module.register_forward_hook(note))
    with torch.device("meta"):
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("parts", "published"),
    [(1, 313.74), (2, 175.23), (4, 105.98), (8, 71.35), (16, 54.04), (32, 45.38), (64, 41.05)],
)
def test_hetconv_vgg16_series(parts, published):
    """Their convention: MACs plus one operation per output for the bias, scaled alike; conv1_1 standard."""
    model = MODELS["vgg16"].build()
    converted = convert(model, family=HetConvShapes(parts), group_out=1, group_in=1).model
    costs = layer_macs(converted, torch.zeros(1, 3, 32, 32))
    total = 0.0
    for name, module in converted.named_modules():
        if isinstance(module, nn.Conv2d):
            cost = costs[name]
            outputs = cost.dense // (module.weight.numel() // module.weight.shape[0])
            total += cost.effective + outputs * cost.effective / cost.dense
    total += 512 * 512 + 512 * 10
    assert total / 1e6 == pytest.approx(published, abs=0.011)


@pytest.mark.parametrize(("parts", "predicted"), [(1, 125.49), (2, 69.91), (4, 42.12), (8, 28.23), (16, 21.28)])
def test_hetconv_resnet56(parts, predicted):
    converted = convert(MODELS["resnet56"].build(), family=HetConvShapes(parts), group_out=1, group_in=1).model
    costs = layer_macs(converted, torch.zeros(1, 3, 32, 32))
    assert sum(cost.effective for cost in costs.values()) / 1e6 == pytest.approx(predicted, abs=0.011)


@pytest.mark.parametrize(
    ("name", "parts", "predicted"),
    [("resnet34", 2, 2.097), ("resnet34", 4, 1.313), ("resnet34", 8, 0.921), ("resnet50", 4, 2.856)],
)
def test_hetconv_imagenet_nets(name, parts, predicted):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    kernels = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    converted = convert(model, family=HetConvShapes(parts), group_out=1, group_in=1, include=list(kernels)).model
    with torch.device("meta"):
        costs = conv_macs(converted, torch.zeros(1, 3, 224, 224))
    ratio = 1 / parts + (1 - 1 / parts) / 9
    total = sum(macs * (ratio if layer in kernels else 1) for layer, (macs, _) in costs.items())
    assert total / 1e9 == pytest.approx(predicted, abs=0.0015)


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "digits_net"])
def test_executed_agrees_with_torchs_counter(name):
    zoo = MODELS[name]
    model, images = zoo.build().eval(), torch.zeros(1, *zoo.input_spec.size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    cost = count_executed(model, images)
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.macs == sum(layer.dense for layer in layer_macs(model, images).values())


def test_counts_by_hand():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 16, 5)
    )
    costs = layer_macs(model, torch.zeros(2, 4, 8, 8))
    assert costs["0"].dense == 16 * 6 * 2 * 9
    assert costs["0"].weights == 6 * 2 * 9
    assert costs["3"].dense == 6 * 16 * 5
    assert model.training, "the mode is restored"
    assert count_executed(model, torch.zeros(1, 4, 8, 8)).macs == 16 * 6 * 2 * 9 + 6 * 16 * 5


def test_operators_without_a_count_are_listed():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x).flatten(1)

    assert count_executed(Sine(), torch.zeros(1, 3, 4, 4)).uncounted == {"aten::sin": 1}
