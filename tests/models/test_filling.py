"""Weights that become a model's own without being copied."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hetcompress.models import MODELS, load_model, parse_architecture
from hetcompress.models.filling import fill_

NET = parse_architecture("hetcompress:resnet20")


def test_a_net_without_initialisation_computes_the_same():
    source = NET.build()
    skeleton = NET.skeleton()
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    assert fill_(skeleton, weights) == ([], [])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source(images), skeleton.eval()(images))
    assert skeleton.conv1.weight.data_ptr() == weights["conv1.weight"].data_ptr()
    assert skeleton.conv1.weight.requires_grad


def test_each_tensor_gets_its_own_memory_and_the_dtype_of_the_net():
    weights = dict(NET.build().state_dict())
    weights["layer1.0.conv2.weight"] = weights["layer1.0.conv1.weight"]
    weights["linear.weight"] = weights["linear.weight"].half()
    weights["conv1.weight"] = weights["conv1.weight"][:1].expand(16, -1, -1, -1)
    skeleton = NET.skeleton()
    fill_(skeleton, weights)
    with torch.no_grad():
        skeleton.layer1[0].conv1.weight.zero_()
        skeleton.conv1.weight[0].zero_()
    assert float(skeleton.layer1[0].conv2.weight.detach().abs().max()) > 0
    assert float(skeleton.conv1.weight[1].detach().abs().max()) > 0
    assert {parameter.dtype for parameter in skeleton.parameters()} == {torch.float32}


def test_missing_counters_become_zero_and_the_rest_is_named():
    weights = {name: t for name, t in NET.build().state_dict().items() if not name.endswith("num_batches_tracked")}
    skeleton = NET.skeleton()
    assert fill_(skeleton, weights) == ([], [])
    assert int(skeleton.bn1.num_batches_tracked) == 0
    del weights["linear.bias"]
    assert fill_(NET.skeleton(), {**weights, "more": torch.zeros(1)}) == (["linear.bias"], ["more"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        fill_(NET.skeleton(), {**weights, "linear.bias": torch.zeros(3)})


def test_a_copy_of_a_net_from_a_file_does_not_copy_the_file(tmp_path):
    save_file(NET.build().state_dict(), tmp_path / "model.safetensors")
    skeleton = NET.skeleton()
    fill_(skeleton, load_file(tmp_path / "model.safetensors"))
    bytes_of = {name: tensor.untyped_storage().nbytes() for name, tensor in copy.deepcopy(skeleton).named_buffers()}
    assert max(bytes_of.values()) == 64 * 4


def test_training_a_loaded_net_leaves_its_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(MODELS["resnet20"].build().state_dict(), path)
    before = path.read_bytes()
    model = load_model(path).model
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert path.read_bytes() == before


class Tied(nn.Module):
    """One module under two names, one weight in two modules, and a buffer under two names."""

    def __init__(self):
        super().__init__()
        self.first = self.again = nn.Conv2d(3, 3, 1)
        self.other = nn.Conv2d(3, 3, 1)
        self.other.weight = self.first.weight
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.norm = nn.Module()
        self.norm.register_buffer("scale", self.scale)

    def forward(self, x):
        return self.other(self.again(self.first(x))) * self.norm.scale


@pytest.mark.parametrize("dropped", [(), ("again.weight", "again.bias"), ("first.weight", "first.bias", "scale")])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ties_stay_and_one_name_is_enough(dropped, device):
    source = Tied()
    with torch.device(device):
        model = Tied()
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items() if name not in dropped}
    assert fill_(model, weights) == ([], [])
    assert model.other.weight is model.first.weight is model.again.weight
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(model(images), source(images))
    with torch.no_grad():
        model.first.weight.zero_()
    assert float(model.other.weight.detach().abs().max()) == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tie_that_no_name_fills_is_missing(device):
    with torch.device(device):
        model = Tied()
    missing, unexpected = fill_(model, {"other.bias": torch.zeros(3), "scale": torch.ones(3, 1, 1)})
    assert (set(missing), unexpected) == (
        {"first.weight", "first.bias", "again.weight", "again.bias", "other.weight"}, []
    )  # fmt: skip
