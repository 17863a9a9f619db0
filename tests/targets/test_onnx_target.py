"""What is special to the ONNX file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hetcompress
from hetcompress import graphs
from hetcompress.errors import InputError
from hetcompress.graphs import onnx_bytes, ort_session, quiet
from hetcompress.nn import HetConv2d
from hetcompress.targets import export_model


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def graph(model: nn.Module) -> Any:
    import onnx

    return onnx.load_from_string(onnx_bytes(model, torch.zeros(1, 3, 6, 6)))


def test_the_contract_of_the_file(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "model.onnx"
    exported = export_model("onnx", net(), torch.zeros(1, 3, 6, 6), path)
    model = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", exported.details["opset"])]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"hetcompress": hetcompress.__version__}
    sides = [*model.graph.input, *model.graph.output]
    assert (
        [side.name for side in sides] == [exported.details["input"], exported.details["output"]] == ["input", "logits"]
    )
    assert [side.type.tensor_type.shape.dim[0].dim_param for side in sides] == ["batch", "batch"]
    shape = model.graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim[1:]] == [3, 6, 6]
    assert list(tmp_path.iterdir()) == [path], "no second file for the weights"


def test_notes_of_the_exporter_are_gone() -> None:
    model = graph(net())
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.graph.value_info
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    assert values
    assert not any(value.metadata_props or value.doc_string for value in values)


def test_the_mask_of_a_pruned_layer_is_folded_away() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    masked = HetConv2d.from_conv2d(convolution, torch.rand(4, 3, 3, 3) > 0.5)
    operators = [node.op_type for node in graph(nn.Sequential(masked, nn.Flatten())).graph.node]
    assert operators in (["Conv", "Reshape"], ["Conv", "Flatten"])


def test_weights_beyond_two_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graphs, "LARGEST_ONNX", 100)
    with pytest.raises(InputError, match=r"of weights, as ONNX takes in one file.*Fix: export it as pt2"):
        export_model("onnx", net(), torch.zeros(1, 3, 6, 6), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    # the limit is about bytes: 4 * (3 * 9 + 1) + batch norm's 4 * 4 floats and a counter
    monkeypatch.setattr(graphs, "LARGEST_ONNX", 4 * (4 * 28 + 16) + 8)
    assert onnx_bytes(net(), torch.zeros(1, 3, 6, 6))


def test_the_export_is_silent(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    export_model("onnx", net(), torch.zeros(1, 3, 6, 6), tmp_path / "model.onnx")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_quiet_restores_logging(caplog: pytest.LogCaptureFixture) -> None:
    import logging
    import warnings

    logger = logging.getLogger("someone.else")
    with quiet():
        logger.warning("hidden")
        warnings.warn("hidden", stacklevel=1)
    logger.warning("shown")
    assert [record.message for record in caplog.records] == ["shown"]
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)


def test_the_session_uses_the_threads_it_is_given() -> None:
    data = onnx_bytes(net(), torch.zeros(1, 3, 6, 6))
    options = ort_session(data, threads=1).get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(InputError, match="a model that can be opened"):
        ort_session(b"nonsense")
