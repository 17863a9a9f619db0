"""Files of other origins, as people have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hetcompress.benchmarking import side_by_side
from hetcompress.candidates import model_candidate, onnx_candidate, program_candidate
from hetcompress.errors import HetCompressError, InputError, UsageError
from hetcompress.kernels import VectorBlockConv2d


def write(path: Path, *, sizes: list[Any], kind: str = "FLOAT", inputs: int = 1, external: bool = False) -> Path:
    """Write a model that multiplies its inputs, under names of its own, with a weight of 100 floats."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, kind)
    names = [f"pixels:{index}" for index in range(inputs)]
    weight = numpy_helper.from_array(np.ones(100, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Cast", [names[0]], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["weight"], ["one"]),
        helper.make_node("Mul", ["cast", "one"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "foreign", [helper.make_tensor_value_info(name, kind, sizes) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, sizes)], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def test_a_foreign_file_is_timed_whatever_its_input_is_called(tmp_path: Path) -> None:
    free = onnx_candidate("free", write(tmp_path / "a.onnx", sizes=["n", 3, "h", "w"]), (3, 4, 5))
    bytewise = onnx_candidate("bytes", write(tmp_path / "b.onnx", sizes=["n", 7], kind="UINT8"))
    assert (free.shape, free.batch, free.dtype) == ((3, 4, 5), None, torch.float32)
    assert (bytewise.shape, bytewise.dtype) == ((7,), torch.uint8)
    timings = side_by_side([free, bytewise], batch=2, threads=1, seconds=0.01)
    assert [(timing.name, timing.verdict == "reference") for timing in timings] == [("free", True), ("bytes", False)]
    assert timings[0].ratio == timings[0].ratio_low == timings[0].ratio_high == 1
    assert timings[1].ratio_low <= timings[1].ratio <= timings[1].ratio_high
    assert (timings[1].latency.batch, timings[1].latency.threads, timings[1].latency.runtime) == (2, 1, "onnxruntime")


def test_weights_in_a_second_file_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", sizes=["n", 3], external=True)
    beside = tmp_path / "a.onnx.data"
    assert onnx_candidate("a", path).bytes == path.stat().st_size + beside.stat().st_size
    assert beside.stat().st_size >= 400


@pytest.mark.parametrize(
    ("settings", "size", "error", "text"),
    [
        ({"sizes": ["n", 3], "inputs": 2}, None, InputError, "expected a model with one input, found 2 (pixels:0, p"),
        ({"sizes": ["n", 3, "h", "w"]}, None, UsageError, "found 3x?x?. Fix: pass --input-size"),
        (
            {"sizes": ["n", 3, "h", "w"]},
            (1, 4, 4),
            UsageError,
            "expected an input of 3x?x?, as the file says, found --",
        ),
        ({"sizes": ["n", 3, 4, 4]}, (3, 8, 8), UsageError, "expected an input of 3x4x4"),
        ({"sizes": ["n", "c"]}, (3, 8, 8), UsageError, "expected an input of ?, as the file says"),
        ({"sizes": []}, None, InputError, "expected a batch of numbers as input, found tensor(float) of []"),
        ({"sizes": ["n", 3], "kind": "BOOL"}, None, InputError, "found tensor(bool)"),
    ],
)
def test_inputs_that_cannot_be_filled(
    settings: dict[str, Any], size: Any, error: type[HetCompressError], text: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.onnx", **settings)
    with pytest.raises(error) as caught:
        onnx_candidate("a", path, size)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    fixed = onnx_candidate("fixed", write(tmp_path / "a.onnx", sizes=[4, 3]))
    assert len(fixed.images(4)) == 4
    with pytest.raises(
        UsageError, match=r"fixed at batch 16: expected batches of 4, as the file says, found 16.*--batch 4"
    ):
        side_by_side([fixed], batch=16, threads=1)


def test_a_file_that_fails_when_it_runs_is_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = torch.export.export(nn.Linear(4, 2), (torch.zeros(3, 4),))
    torch.export.save(program, tmp_path / "a.pt2")
    fixed = program_candidate("a", tmp_path / "a.pt2")
    assert (fixed.batch, fixed.shape, fixed.runtime) == (3, (4,), "torch")
    broken = model_candidate("net", nn.Sequential(nn.Conv2d(3, 4, 3)), (5, 8, 8), "torch")
    with pytest.raises(InputError, match="net: expected a model that runs an input of 1x5x8x8, found") as caught:
        side_by_side([broken], batch=1, threads=1)
    assert "\n" not in str(caught.value)


def test_a_program_that_lacks_its_kernel_is_no_slow_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = VectorBlockConv2d.from_pruned(nn.Conv2d(16, 16, 3), 16)
    torch.export.save(torch.export.export(layer, (torch.zeros(1, 16, 8, 8),)), tmp_path / "a.pt2")
    notes: list[str] = []
    monkeypatch.setattr("hetcompress.kernels.available", lambda: (True, "portable"))
    program_candidate("a.pt2", tmp_path / "a.pt2", notes=notes)
    assert notes == []
    monkeypatch.setattr("hetcompress.kernels.available", lambda: (False, "the library is not built"))
    program_candidate("a.pt2", tmp_path / "a.pt2", notes=notes)
    assert notes == ["a.pt2 has layers in our kernel, which run dense here: the library is not built"]


def test_programs_and_models_run_in_torch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.zeros(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "a.pt2")
    candidates = [
        program_candidate("program", tmp_path / "a.pt2"),
        model_candidate("model", model, (3, 6, 6), "torch"),
        model_candidate("exported", model, (3, 6, 6), "onnxruntime"),
    ]
    assert candidates[1].bytes == 4 * (4 * 27 + 4)
    assert [candidate.shape for candidate in candidates] == [(3, 6, 6)] * 3
    runtimes = [timing.latency.runtime for timing in side_by_side(candidates, batch=1, threads=1, seconds=0.01)]
    assert runtimes[0] == "torch"
    assert runtimes[1].startswith("torch")
    assert runtimes[2] == "onnxruntime"
