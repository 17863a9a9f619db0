"""int8: what the quantiser writes, what the runtime makes of it, and which layers are left in fp32."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hetcompress
from hetcompress.errors import HetCompressError, NothingToDoError
from hetcompress.evaluation import Accuracy
from hetcompress.graphs import onnx_bytes
from hetcompress.machine import Machine, machine
from hetcompress.targets import EXPORT_TARGETS
from hetcompress.targets.int8 import Kernels, Layer, Quantiser, Scheme, count_kernels, scheme_for
from hetcompress.targets.int8_choice import choose_layers, sensitivities


class Net(nn.Module):
    """Three convolutions, one of them beside a shortcut, one that is not followed by a ReLU, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.last, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        return self.head(self.last(torch.relu(y + self.inner(y))).mean((2, 3)))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(Net(), torch.zeros(1, 3, 8, 8)))
    return path


@pytest.fixture
def quantiser(source: Path, tmp_path: Path) -> Quantiser:
    (tmp_path / "work").mkdir()
    return Quantiser(source, [images(8), images(8) / 2], scheme_for(machine()), tmp_path / "work")


def run(path: Path, count: int) -> Tensor:
    return EXPORT_TARGETS["onnx"]().open(path)(images(count))


def test_everything_is_int8_and_near_fp32(quantiser: Quantiser, source: Path, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "int8.onnx"
    quantiser.write(path)
    kernels = count_kernels(path)
    assert (kernels.int8_convolutions, kernels.fp32_convolutions) == (3, 0)
    assert (kernels.int8_linear, kernels.fp32_linear) == (1, 0)
    assert count_kernels(source).fp32_convolutions == 3
    for count in (1, 5):
        expected = run(source, count)
        assert 0 < float((run(path, count) - expected).abs().max()) < 0.1 * float(expected.abs().max())
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"hetcompress": hetcompress.__version__}
    assert not model.graph.value_info
    assert str(tmp_path).encode() not in path.read_bytes()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [tensor for name, tensor in weights.items() if "inner" in name and "scale" in name]
    assert [list(tensor.dims) for tensor in scales] in ([[16]], [[16], [16]]), "one scale for each output channel"


def test_layers_can_stay_fp32(quantiser: Quantiser, tmp_path: Path) -> None:
    assert [layer.convolution for layer in quantiser.layers] == [True, True, True, False]
    assert [layer.name for layer in quantiser.layers][1:] == ["inner", "last", "head"]
    quantiser.write(tmp_path / "a.onnx", exclude=quantiser.layers[1:2])
    assert count_kernels(tmp_path / "a.onnx").fp32_convolutions == 1, "onnxruntime quantises it again"
    quantiser.write(tmp_path / "none.onnx", exclude=quantiser.layers)
    kernels = count_kernels(tmp_path / "none.onnx")
    assert (kernels.int8_convolutions, kernels.fp32_convolutions, kernels.fp32_linear) == (0, 3, 1)
    quantiser.write(tmp_path / "b.onnx", only=quantiser.layers[1:2])
    assert (kernels := count_kernels(tmp_path / "b.onnx")).int8_convolutions == 1, kernels


def test_the_same_calibration_gives_the_same_file(quantiser: Quantiser, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantiser.write(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_sensitivities_rank_the_layer_that_suffers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():  # one image channel a thousand times larger than the others, whose details are lost
        net.head.weight[:, 0] *= 1000
        net.last.weight[0] /= 1000
    path, scratch = tmp_path / "model.onnx", tmp_path / "one.onnx"
    path.write_bytes(onnx_bytes(net, torch.zeros(1, 3, 8, 8)))
    quantiser = Quantiser(path, [images(8)], scheme_for(machine()), tmp_path)
    opened = EXPORT_TARGETS["onnx"]().open
    found = sensitivities(quantiser, opened(path), opened, images(8), scratch)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert set(found) == set(quantiser.layers)
    assert all(0 <= value < 1 for value in found.values())
    assert next(iter(found)).name in ("head", "last")


def test_layers_around_a_tensor_that_8_bits_cannot_hold_stay_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():  # one channel of a thousand, which the scores ignore, beside channels below one
        net.last.bias[0] = 1000
        net.head.weight[:, 0] = 0
    source, path = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    source.write_bytes(onnx_bytes(net, torch.zeros(1, 3, 8, 8)))
    quantiser = Quantiser(source, [images(32)], scheme_for(machine()), tmp_path)
    opened = EXPORT_TARGETS["onnx"]().open
    expected = opened(source)(images(200))
    spread = float((expected - expected.mean(0)).square().sum())

    def measure(file: Path) -> Accuracy:  # how much of what tells images apart is left
        lost = float((opened(file)(images(200)) - expected).square().sum()) / spread
        return Accuracy(max(0, round(100 * (1 - lost))), 100, 0.0)

    choice = choose_layers(
        quantiser, path, measure=measure, lowest=90,
        rank=lambda: list(sensitivities(quantiser, opened(source), opened, images(32), tmp_path / "one.onnx")),
    )  # fmt: skip
    assert {layer.name for layer in choice.fp32_layers} == {"last", "head"}
    assert choice.tried[0] < 90 <= choice.accuracy.percent
    kernels = count_kernels(path)
    assert (kernels.int8_convolutions, kernels.fp32_convolutions, kernels.fp32_linear) == (2, 1, 1)


def test_a_model_that_the_quantiser_cannot_open_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(HetCompressError, match="Fix: export it without --int8") as caught:
        Quantiser(tmp_path / "model.onnx", [images(1)], Scheme("uint8", 8), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("avx2", "avx512f", "avx512_vnni"), Scheme("uint8", 8)),
        (("avx2", "avx_vnni"), Scheme("uint8", 8)),
        (("avx2", "avx512f"), Scheme("uint8", 7)),
        (("asimd", "i8mm"), Scheme("int8", 8)),
        ((), Scheme("uint8", 8)),
    ],
)
def test_types_suit_the_processor(flags: tuple[str, ...], expected: Scheme) -> None:
    here: Machine = dataclasses.replace(machine(), flags=flags)
    assert scheme_for(here) == expected


class Pretended(Quantiser):
    """Writes how many layers it left out."""

    def __init__(self) -> None:
        pass

    def write(self, path: Path, *, exclude: Any = (), only: Any = ()) -> None:
        path.write_text(str(len(exclude)))


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8, 11])
def test_as_few_layers_as_possible_stay_fp32(needed: int, tmp_path: Path) -> None:
    layers = [Layer(f"node{index}", f"layer{index}", True) for index in range(11)]
    pretended = Pretended()
    ranked: list[int] = []

    def measure(path: Path) -> Accuracy:
        return Accuracy(90 if int(path.read_text()) >= needed else 80, 100, 0.0)

    def rank() -> list[Layer]:
        ranked.append(1)
        return layers

    path = tmp_path / "int8.onnx"
    choice = choose_layers(pretended, path, measure=measure, rank=rank, lowest=89.7)
    assert [layer.name for layer in choice.fp32_layers] == [f"layer{index}" for index in range(needed)]
    assert path.read_text() == str(needed)
    assert choice.accuracy.percent == 90
    assert len(ranked) == (needed > 0)
    assert len(choice.tried) <= 9


def test_an_accuracy_out_of_reach_says_so(quantiser: Quantiser, tmp_path: Path) -> None:
    def measure(path: Path) -> Accuracy:
        return Accuracy(8, 10, 0.0)

    with pytest.raises(
        NothingToDoError, match=r"at least 89\.70 %, found 80\.00 % with all.*larger --int8-drop"
    ) as caught:
        choose_layers(
            quantiser, tmp_path / "a.onnx", measure=measure, rank=lambda: quantiser.layers, lowest=89.7
        )  # fmt: skip
    assert caught.value.exit_code == 4
    assert isinstance(count_kernels(tmp_path / "a.onnx"), Kernels)
