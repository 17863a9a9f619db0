"""Learning from the dense source."""

import math

import pytest
import torch
from torch import nn

from hetcompress.conversion import convert
from hetcompress.distillation import Distillation, feature_difference, score_divergence
from hetcompress.lowering import fold_batch_norms
from hetcompress.models import MODELS
from hetcompress.nn import LearnableHetConv2d
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def source_and_converted():
    torch.manual_seed(0)
    dense = MODELS["digits_net"].build(width=8).eval()
    for norm in named_modules_of(dense, nn.BatchNorm2d).values():
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return dense, convert(dense, family=build_family("free"), group_out=4, group_in=1).model.eval()


@pytest.mark.parametrize("folded", [False, True])
def test_a_converted_model_has_nothing_to_learn(folded):
    dense, model = source_and_converted()
    teacher = fold_batch_norms(dense, IMAGES[:1]) if folded else dense
    scores, divergence, difference = Distillation(teacher, 4.0, features=True)(model, IMAGES)
    assert torch.allclose(scores, dense(IMAGES), atol=1e-5)
    assert float(divergence.detach()) == pytest.approx(0, abs=1e-5)
    assert float(difference.detach()) == pytest.approx(0, abs=1e-8)


def test_features_reach_every_layer_but_the_last_at_once():
    dense, model = source_and_converted()
    for layer in named_modules_of(model, LearnableHetConv2d).values():
        layer.weight.data += 0.05 * torch.randn_like(layer.weight)
    _, _, difference = Distillation(dense, 4.0, features=True)(model, IMAGES)
    assert float(difference.detach()) > 1e-4
    difference.backward()
    gradients = {name: layer.weight.grad for name, layer in named_modules_of(model, LearnableHetConv2d).items()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in dense.parameters())
    assert model.linear.weight.grad is None, "what the last layer reads does not depend on it"


def test_no_hook_stays():
    dense, model = source_and_converted()
    Distillation(dense, 4.0, features=True)(model, IMAGES)
    assert not any(module._forward_pre_hooks for net in (dense, model) for module in net.modules())


def test_scores_alone():
    dense, model = source_and_converted()
    model.linear.weight.data *= 1.5
    _, divergence, difference = Distillation(dense, 4.0, features=False)(model, IMAGES)
    assert float(divergence.detach()) > 0
    assert float(difference) == 0


def test_divergence_and_difference_by_hand():
    scores, told = torch.tensor([[0.0, math.log(4) * 2]]), torch.zeros(1, 2)
    # softened by 2: (1/5, 4/5) against (1/2, 1/2)
    expected = 4 * (0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8))
    assert float(score_divergence(scores, told, 2.0)) == pytest.approx(expected, rel=1e-5)
    found, wanted = [torch.ones(1, 2), torch.zeros(1, 1)], [torch.full((1, 2), 2.0), torch.ones(1, 1)]
    assert float(feature_difference(found, wanted)) == pytest.approx((2 / (8 + 2) + 1) / 2)
