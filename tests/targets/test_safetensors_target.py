"""What is special to the safetensors file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hetcompress.errors import InputError, UsageError
from hetcompress.targets import SafetensorsTarget, export_model


def net(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 1)
    second.bias = first.bias
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    export_model("safetensors", net(), torch.zeros(1, 3, 5, 5), path)
    return path


def test_a_shared_tensor_is_stored_once_and_named_in_the_header(path: Path) -> None:
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"0.weight", "0.bias", "1.weight"}
        ours = json.loads(file.metadata()["hetcompress"])
    assert ours["format"] == 1
    assert ours["input"] == [3, 5, 5]
    assert ours["tied"] == {"1.bias": "0.bias"}


def test_weights_come_from_the_file_and_not_from_the_structure(path: Path) -> None:
    other = net()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 7)
    scores = SafetensorsTarget().open(path, other)(torch.ones(2, 3, 5, 5))
    torch.testing.assert_close(scores, net()(torch.ones(2, 3, 5, 5)).detach())
    assert all(bool((parameter == 7).all()) for parameter in other.parameters())


def test_another_architecture_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="expected the weights of this model"):
        SafetensorsTarget().open(path, net(5))
    with pytest.raises(UsageError, match="the architecture beside it"):
        SafetensorsTarget().open(path)


def test_a_foreign_or_newer_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"0.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="expected an export of format 1, found format None"):
        SafetensorsTarget().open(path, net())
    save_file({"0.weight": torch.zeros(1)}, path, metadata={"hetcompress": '{"format": 2}'})
    with pytest.raises(InputError, match="found format 2"):
        SafetensorsTarget().open(path, net())
