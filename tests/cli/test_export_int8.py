"""``hetcompress export --onnx --int8`` as a user meets it."""

import json

import pytest

SMOKE = ("finetune", "--data", "digits", "--max-steps", 30, "-b", 32, "-q")
INT8 = ("export", "--onnx", "--int8")


@pytest.fixture
def finetuned(hc, digits):
    hc("convert", "model.pt", *digits, "--family", "centre")
    assert hc(*SMOKE, "--mac-ratio", 1.5)[0] == 0


def test_an_int8_file_beside_the_onnx_file(hc, finetuned, tmp_path):
    code, out, err = hc(*INT8, "--int8-drop", 5, "--seconds", 0.02, "-b", 1, "--json", "--int8-images", 100)
    assert code == 0, err
    result = json.loads(out)["result"]
    int8 = result["int8"]
    path = tmp_path / "hetrun" / "export" / "model.int8.onnx"
    assert int8["file"]["bytes"] == path.stat().st_size == result["files"][1]["bytes"]
    assert path.stat().st_size < result["files"][0]["bytes"]
    assert int8["kernels"]["int8_convolutions"] >= 4
    assert int8["unfused"] == 0
    assert int8["calibration_images"] == 128, "whole batches of 32"
    assert int8["file"]["batch_sizes"][:3] == [1, 2, 3]
    assert int8["drop"] <= 5
    assert result["accuracies"]["in int8"]["correct"] == int8["accuracy"]["correct"]
    assert [timing["name"] for timing in int8["timings"]] == ["dense", "compressed", "int8"]
    assert (
        json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]["export"]["int8"]["drop"] == int8["drop"]
    )
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.int8.onnx", "model.onnx"]
    code, out, err = hc("bench", "dense", path, "-b", 2, "--seconds", 0.02, "-q")
    assert code == 0, err
    code, out, err = hc(*INT8, "--int8-drop", 5, "--seconds", 0, "--out", "elsewhere")
    assert code == 0, err
    assert "convolutions run in int8 kernels here; accuracy" in out
    code, out, err = hc(*INT8, "--seconds", 0, "--out", "elsewhere")
    assert code == 2
    assert "pass --force" in err


def test_int8_with_our_own_kernel(hc, digits, library, tmp_path):
    hc("convert", "model.pt", *digits, "--group-in", 1, "--group-out", 16)
    assert hc(*SMOKE, "--mac-ratio", 4)[0] == 0
    code, out, err = hc(
        *INT8, "--kernels", "--int8-drop", 20, "--seconds", 0.02, "-b", 1, "--json", "--int8-images", 100
    )
    assert code == 0, err
    result = json.loads(out)["result"]
    import onnx

    assert "register_custom_ops_library" in result["files"][1]["details"], "the int8 file"
    operators = [node.op_type for node in onnx.load(tmp_path / "hetrun" / "export" / "model.int8.onnx").graph.node]
    assert "QLinearVectorBlockConv2d" in operators
    assert result["int8"]["unfused"] == 0
    assert result["int8"]["drop"] <= 20
    assert hc("bench", tmp_path / "hetrun" / "export" / "model.int8.onnx", "-b", 2, "--seconds", 0.02, "-q")[0] == 0


def test_without_data(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    code, out, err = hc(*INT8, "--seconds", 0)
    assert (code, out) == (2, "")
    assert "export --int8: expected data to calibrate on, found a run that was made without. Fix: pass --data" in err
    assert not (tmp_path / "hetrun" / "export").exists()
    assert hc(*INT8, "--seconds", 0, "--data", "digits", "--int8-drop", 50)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("export", "--pt2", "--int8"), "export --int8: expected --onnx beside it, found pt2"),
        ((*INT8, "--int8-drop", -1), "--int8-drop: expected points from 0 to 100, found -1"),
        ((*INT8, "--int8-drop", "nan"), "--int8-drop: expected points from 0 to 100, found nan"),
        ((*INT8, "--int8-images", 0), "--int8-images: expected a number of at least 1, found 0"),
    ],
)
def test_settings_that_make_no_sense(hc, digits, arguments, text):
    hc("convert", "model.pt", *digits)
    code, out, err = hc(*arguments, "--seconds", 0)
    assert (code, out) == (2, "")
    assert text in err
