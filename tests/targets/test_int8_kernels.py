"""Our own kernel in quantised files: what is replaced, what is not, and that the numbers stay."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes
from hetcompress.kernels import VectorBlockConv2d
from hetcompress.machine import machine
from hetcompress.targets import EXPORT_TARGETS
from hetcompress.targets.int8 import Quantiser, count_kernels, scheme_for
from hetcompress.targets.int8_kernels import ordinary

pytestmark = pytest.mark.usefixtures("library")


def sparse(channels: int, filters: int, density: float, **options: int) -> VectorBlockConv2d:
    conv = nn.Conv2d(channels, filters, 3, **options)
    kept = torch.rand(filters // 16, channels, 3, 3) < density
    with torch.no_grad():
        conv.weight *= kept.repeat_interleave(16, 0)
    return VectorBlockConv2d.from_pruned(conv, 16)


class Net(nn.Module):
    """A dense stem, two thin layers around an addition, a thick one, one with uneven padding, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.thin = sparse(16, 16, 0.2, padding=1)
        self.wide = sparse(16, 32, 0.25, padding=1, stride=2)
        self.thick = sparse(32, 32, 0.8, padding=1)
        uneven = nn.Conv2d(32, 32, 3)
        with torch.no_grad():
            uneven.weight *= (torch.rand(2, 32, 3, 3) < 0.2).repeat_interleave(16, 0)
        self.uneven = VectorBlockConv2d.from_pruned(uneven, 16, padding=(0, 1, 2, 1))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.thin(x))
        x = torch.relu(self.thick(F.max_pool2d(torch.relu(self.wide(x)), 3, 2, 1)))
        return self.head(torch.relu(self.uneven(x)).mean((2, 3)))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 10, 12, generator=torch.Generator().manual_seed(1))


def run(path: Path, count: int = 20) -> Tensor:
    return EXPORT_TARGETS["onnx"]().open(path)(images(count))


def operators(path: Path) -> Counter[str]:
    import onnx

    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Quantiser, Quantiser]:
    """Return quantisers with our kernel and without."""
    source = tmp_path / "ordinary.onnx"
    source.write_bytes(onnx_bytes(ordinary(Net().eval()), images(1)))
    quantisers = []
    for own in (True, False):
        (tmp_path / str(own)).mkdir()
        batches = [images(20)]
        quantisers.append(Quantiser(source, batches, scheme_for(machine()), tmp_path / str(own), own_kernels=own))
    return quantisers[0], quantisers[1]


def test_ordinary_convolutions_compute_the_same() -> None:
    net = Net().eval()
    with torch.no_grad():
        torch.testing.assert_close(ordinary(net)(images(3)), net(images(3)), rtol=1e-4, atol=1e-5)
    assert isinstance(net.thin, VectorBlockConv2d), "the model itself stays"


def test_thin_layers_run_in_our_kernel(made: tuple[Quantiser, Quantiser], tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    made[0].write(ours)
    made[1].write(theirs)
    assert operators(ours)["QLinearVectorBlockConv2d"] == 3
    assert operators(ours)["Conv"] == 2, "the stem and the thick layer"
    assert operators(ours)["NhwcMaxPool"] == 1
    assert operators(theirs)["Conv"] == 5
    kernels = count_kernels(ours)
    assert (kernels.int8_convolutions, kernels.fp32_convolutions) == (5, 0)
    assert ours.stat().st_size < theirs.stat().st_size * 0.9
    # both round the same sums; one step of an activation apart at most, now and then
    scale = run(theirs).abs().max()
    assert (run(ours) - run(theirs)).abs().max() < 0.02 * scale
    with torch.no_grad():
        assert (run(ours) - Net().eval()(images(20))).abs().max() < 0.1 * scale


def test_layers_left_in_fp32_run_in_our_fp32_kernel(made: tuple[Quantiser, Quantiser], tmp_path: Path) -> None:
    path = tmp_path / "ours.onnx"
    thin = next(layer for layer in made[0].layers if layer.name == "thin")
    made[0].write(path, exclude=[thin])
    assert operators(path)["QLinearVectorBlockConv2d"] == 2
    assert operators(path)["VectorBlockConv2d"] == 1
    kernels = count_kernels(path)
    assert (kernels.int8_convolutions, kernels.fp32_convolutions) == (4, 1)
    made[0].write(path, exclude=made[0].layers)
    with torch.no_grad():
        torch.testing.assert_close(run(path), Net().eval()(images(20)), rtol=1e-3, atol=1e-4)
