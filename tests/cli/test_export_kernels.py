"""Whether an exported file has layers in our kernel: by the clock, or as it was said."""

import dataclasses
import json

import pytest

from hetcompress.planning import automatic


@pytest.fixture
def pruned(hc, digits):
    assert hc("convert", "model.pt", *digits, "--granularity", "vector8")[0] == 0
    assert hc("prune", "--mac-ratio", 4)[0] == 0


def planned(tmp_path):
    return json.loads((tmp_path / "hetrun" / "plan.json").read_text())


def operators(tmp_path):
    onnx = pytest.importorskip("onnx")
    return {node.op_type for node in onnx.load(tmp_path / "hetrun" / "export" / "model.onnx").graph.node}


@pytest.mark.usefixtures("pruned", "library")
def test_a_file_in_our_kernel_says_what_it_needs(hc, tmp_path, monkeypatch):
    monkeypatch.setattr(automatic, "WORTH", 0.0)
    by_time = automatic.whole.settled_plan

    def by_macs(*models):  # a net as small as this one need not gain on the clock
        *others, asked = models
        return by_time(*others, dataclasses.replace(asked, plan="macs"))

    monkeypatch.setattr(automatic.whole, "settled_plan", by_macs)
    code, out, err = hc("export", "--onnx", "--seconds", 0)
    assert code == 0, err
    assert planned(tmp_path)["kernels"] is True
    assert "VectorBlockConv2d" in operators(tmp_path)
    assert "model.onnx has layers in our kernel: options.register_custom_ops_library(" in out
    assert "--no-kernels writes stock operators only" in out
    code, out, err = hc("export", "--onnx", "--seconds", 0, "--no-kernels")
    assert code == 0, err
    assert planned(tmp_path)["kernels"] is False
    assert "VectorBlockConv2d" not in operators(tmp_path)
    assert "register_custom_ops_library" not in out


@pytest.mark.usefixtures("pruned", "library")
def test_stock_operators_that_are_fast_need_no_library(hc, tmp_path, monkeypatch):
    monkeypatch.setattr(automatic, "WORTH", float("inf"))
    assert hc("export", "--onnx", "--seconds", 0)[0] == 0
    assert planned(tmp_path)["kernels"] is False
    assert "VectorBlockConv2d" not in operators(tmp_path)


@pytest.mark.usefixtures("pruned")
def test_a_kernel_that_is_not_there_is_missed_aloud(hc, tmp_path, monkeypatch):
    monkeypatch.setattr(automatic, "ENOUGH", float("inf"))
    monkeypatch.setattr("hetcompress.kernels.library._library", lambda: "it was not compiled")
    code, _, err = hc("export", "--onnx", "--seconds", 0)
    assert code == 0, err
    assert "our kernel, which is made for such shapes, is not here: it was not compiled" in err
    assert planned(tmp_path)["kernels"] is False


@pytest.mark.usefixtures("pruned")
def test_without_the_library_all_commands_work(hc, monkeypatch):
    monkeypatch.setattr("hetcompress.kernels.library._library", lambda: "it was not compiled")
    for command in (("report",), ("report", "--plan", "macs"), ("export", "--onnx"), ("bench", "dense", "lowered")):
        code, _, err = hc(*command, "--seconds", 0.01)
        assert code == 0, (command, err)
    code, _, err = hc("report", "--kernels")
    assert code == 2
    assert "--kernels: expected the compiled library, found it was not compiled" in err


def test_what_the_message_says_can_be_called():
    import hetcompress

    assert hetcompress.kernels.library_path().name.startswith("libhetcompress_kernels")
