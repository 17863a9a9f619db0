"""``hetcompress bench`` as a user meets it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hetcompress
from hetcompress.artifacts import RunFolder
from hetcompress.errors import InputError
from hetcompress.graphs import onnx_bytes
from hetcompress.models import MODELS

FAST = ("--seconds", 0.02)


@pytest.fixture
def foreign(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    (tmp_path / "foreign.onnx").write_bytes(onnx_bytes(model, torch.zeros(1, 1, 8, 8)))
    return "foreign.onnx"


def test_models_of_a_run_against_a_foreign_file_and_a_checkpoint(hc, digits, foreign):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    code, out, err = hc(
        "bench", "dense", "lowered", foreign, foreign, "-b", 1, "-b", 3, "--threads", 1, "--threads", 2, *FAST, "--json"
    )  # fmt: skip
    assert code == 0, err
    assert "timing 4 models, threads 2, batch 3" in err
    result = json.loads(out)["result"]
    assert json.loads(out)["schema"] == 1
    assert [item["name"] for item in result["items"]] == ["dense", "lowered", f"{foreign} (1)", f"{foreign} (2)"]
    assert result["items"][0]["input"] == [1, 8, 8]
    settings = [(timing["latency"]["threads"], timing["latency"]["batch"]) for timing in result["timings"]]
    assert settings == [pair for pair in ((1, 1), (1, 3), (2, 1), (2, 3)) for _ in range(4)]
    assert {"ratio_low", "ratio_high", "verdict"} <= set(result["timings"][1])
    assert {"cpu", "flags", "torch", "onnxruntime"} <= set(result["machine"])
    code, out, err = hc("bench", "model.pt", "dense", *digits, *FAST)
    assert code == 0
    for word in ("model.pt", "reference", "median ms", "95 %", "onnxruntime", "bytes"):
        assert word in out


def test_models_of_other_inputs_are_said_to_do_other_work(hc, digits, foreign, tmp_path):
    hc("convert", "model.pt", *digits)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    (tmp_path / "larger.onnx").write_bytes(onnx_bytes(model, torch.zeros(1, 1, 9, 9)))
    code, _, err = hc("bench", foreign, "larger.onnx", "-b", 1, *FAST)
    assert code == 0
    assert "NOTE: larger.onnx takes 1x9x9 float32, not 1x8x8 float32 as foreign.onnx does" in err
    assert "different work" not in hc("bench", foreign, "dense", "-b", 1, *FAST)[2]


def test_operators_of_models_stand_side_by_side(hc, digits, foreign):
    hc("convert", "model.pt", *digits)
    code, out, err = hc("bench", "dense", foreign, "-b", 2, *FAST, "--operators")
    assert code == 0, err
    table = out[out.index("Operators in onnxruntime, ms (calls), batch 2, threads 1") :].splitlines()
    assert table[1].split() == ["operator", "dense", foreign]
    assert any("Conv" in line.split()[0] and line.endswith("(1)") for line in table)
    assert table[-2].split()[0] == "all"
    assert table[-1].startswith("without profiling")
    assert len(table[-1].split()) == 4, "the medians of both"
    code, out, err = hc(
        "bench", "dense", "model.pt", *digits, "-b", 2, *FAST, "--operators", "--runtime", "torch", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["result"]["profiles"] == []
    assert "NOTE: model.pt runs in torch, whose operators are not shown; --runtime onnxruntime shows those" in err


def test_more_images_than_memory_holds_are_refused(hc, digits, foreign):
    hc("convert", "model.pt", *digits)
    for command in (("bench", foreign), ("bench", "dense")):
        code, _, err = hc(*command, "-b", 10**12, *FAST)
        assert code == 2
        assert "--batch 1000000000000: expected images that fit memory" in err
        assert "Traceback" not in err


def test_the_lowered_model_is_the_one_that_was_exported(hc, digits, library, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    timed = ("bench", "lowered", "-b", 1, *FAST, "--json")
    code, out, err = hc(*timed)
    assert code == 0, err
    assert "NOTE: lowered: plan fast on ort-cpu, batch 1, threads 1" in err
    assert "(nothing is exported yet)" in err
    assert hc("export", "--onnx", "--seconds", 0, "--plan", "macs")[0] == 0
    stock = (tmp_path / "hetrun" / "export" / "model.onnx").stat().st_size
    assert hc("export", "--onnx", "--seconds", 0, "--kernels", "--plan", "macs")[0] == 0
    code, out, err = hc(*timed)
    assert code == 0, err
    assert "NOTE: lowered: in the forms of the export" in err
    exported = (tmp_path / "hetrun" / "export" / "model.onnx").stat().st_size
    assert json.loads(out)["result"]["items"][0]["bytes"] == exported != stock


def test_the_exported_model_in_python(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    run = tmp_path / "hetrun"
    assert hc("export", "--safetensors", "--plan", "macs", "--seconds", 0)[0] == 0
    pruned = RunFolder.open(run).pruned_model().eval()
    images = torch.randn(2, 1, 8, 8)
    model = hetcompress.lowered(run)
    assert not model.training
    assert torch.allclose(model(images), pruned(images), atol=1e-5)
    model.load_state_dict(load_file(run / "export" / "model.safetensors"))
    # the forms are those of the export, whatever would be planned
    plan = json.loads((run / "plan.json").read_text())
    for layer in plan["layers"]:
        layer["form"] = "dense"
    (run / "plan.json").write_text(json.dumps(plan))
    forms = [module for module in hetcompress.lowered(run).modules() if isinstance(module, nn.Conv2d)]
    assert len(forms) == len([module for module in pruned.modules() if isinstance(module, nn.Conv2d)])
    plan["target"] = "torch-cuda"  # where it was planned does not matter
    (run / "plan.json").write_text(json.dumps(plan))
    hetcompress.lowered(run)
    misfit = "layer conv2 in a form that does not fit it, or in none"
    for change, found in (
        ({"form": "pointwise-plus"}, misfit), ({"name": "other"}, misfit), ({"form": ["crop"]}, "Type"),
        ({"form": "x"}, "no form that there is: x"),
    ):  # fmt: skip
        (run / "plan.json").write_text(json.dumps({"layers": [plan["layers"][0] | change, *plan["layers"][1:]]}))
        with pytest.raises(InputError, match=r"plan\.json: expected the plan .* found .*export again") as told:
            hetcompress.lowered(run)
        assert found in str(told.value)
    (run / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="found KeyError: 'layers'"):
        hetcompress.lowered(run)
    (run / "plan.json").unlink()
    assert torch.allclose(hetcompress.lowered(run)(images), pruned(images), atol=1e-5)


def test_in_torch_and_in_python(hc, digits, tmp_path, monkeypatch):
    hc("convert", "model.pt", *digits)
    found = hetcompress.bench(
        ["dense", tmp_path / "model.pt"],
        arch=digits[1],
        arch_arguments={"width": 16},
        runtime="torch",
        batches=[2],
        seconds=0.02,
    )
    assert [item.runtime for item in found.items] == ["torch", "torch"]
    assert [timing.verdict == "reference" for timing in found.timings] == [True, False]


def test_a_fixed_batch_decides_where_none_is_given(hc, tmp_path):
    program = torch.export.export(nn.Flatten(), (torch.zeros(4, 3, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    code, out, err = hc("bench", "a.pt2", "--trust-pickle", "--json", *FAST)
    assert code == 0, err
    assert [timing["latency"]["batch"] for timing in json.loads(out)["result"]["timings"]] == [4]
    code, _, err = hc("bench", "a.pt2", "--trust-pickle", "-b", 16, *FAST)
    assert code == 2
    assert "a.pt2 at batch 16: expected batches of 4" in err


CASES = {
    "missing": (("nowhere.onnx",), 3, "model nowhere.onnx: expected a file, or dense or lowered, found no such file"),
    "word": (("dens",), 3, "did you mean 'dense'?"),
    "folder": ((".",), 3, "found a folder"),
    "no run": (("dense",), 3, "run `hetcompress convert CHECKPOINT` first"),
    "broken": (("broken.onnx",), 3, "file broken.onnx: expected a model that can be opened"),
    "page": (("page.pt",), 3, "found a web page"),
    "program": (("broken.pt2",), 3, "expected --trust-pickle beside a .pt2 program"),
    "broken program": (("broken.pt2", "--trust-pickle"), 3, "file broken.pt2: expected a model that can be opened"),
    "runtime": (("foreign.onnx", "--runtime", "tensorflow"), 2, "--runtime: expected one of onnxruntime, torch"),
    "onnx in torch": (("foreign.onnx", "--runtime", "torch"), 2, "expected onnxruntime, in which foreign.onnx runs"),
    "size": (("foreign.onnx", "--input-size", 1, 9, 9), 2, "expected an input of 1x8x8, as the file says"),
    "no size": (("foreign.onnx", "--input-size", 1, 0, 9), 2, "--input-size: expected positive numbers"),
    "seconds": (("foreign.onnx", "--seconds", 0), 2, "--seconds: expected a positive number, found 0"),
    "threads": (("foreign.onnx", "--threads", 1, "--threads", 4096), 2, "found 4096"),
    "text": (("text.py",), 3, "checkpoint text.py: expected a checkpoint, found a text"),
    "none": ((), 2, "Missing argument"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_bad_input(hc, foreign, case, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    (tmp_path / "broken.pt2").write_bytes(b"nonsense")
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html><html>")
    (tmp_path / "text.py").write_text("import sys, numpy as np\nimport torch\n")
    arguments, expected, message = CASES[case]
    code, out, err = hc("bench", *arguments)
    assert (code, out) == (expected, "")
    assert message in err
    assert "Traceback" not in err


def test_a_checkpoint_without_an_image_size(hc, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3))\n"
    )
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict(), tmp_path / "model.pt")
    code, _, err = hc("bench", "model.pt", "--arch", "mine.py:net", *FAST)
    assert code == 2
    assert "pass --input-size CHANNELS HEIGHT WIDTH" in err
    assert hc("bench", "model.pt", "--arch", "mine.py:net", "--input-size", 3, 9, 9, *FAST)[0] == 0


def test_word_without_pruning_names_the_missing_step(hc):
    torch.save(MODELS["digits_net"].build().state_dict(), "model.pt")
    assert hc("convert", "model.pt")[0] == 0
    code, _, err = hc("bench", "lowered", *FAST)
    assert code == 3
    assert "run `hetcompress finetune --data NAME` first" in err


def test_fixes_name_the_run_that_was_asked_for(hc, tmp_path, monkeypatch):
    torch.save(MODELS["digits_net"].build().state_dict(), "model.pt")
    assert "run `hetcompress convert CHECKPOINT` first, or" in hc("report")[2]
    assert "run `hetcompress convert CHECKPOINT --run 'a run'` first, or" in hc("report", "--run", "a run")[2]
    assert hc("convert", "model.pt", "--run", "another")[0] == 0
    code, _, err = hc("report", "--run", "another")
    assert code == 3
    assert "run `hetcompress finetune --data NAME --run another` first" in err
    assert "or `hetcompress prune --mac-ratio 2 --run another`, untrained" in err
    code, out, _ = hc("prune", "--density", 0.5, "--run", "another")
    assert code == 0
    assert "run `hetcompress finetune --stage fine --data NAME --run another` to recover" in out
    (tmp_path / "another" / "pruned.safetensors").write_bytes(b"")
    assert "run `hetcompress finetune --data NAME --run another` again" in hc("report", "--run", "another")[2]
    (tmp_path / "another" / "converted.safetensors").unlink()
    again = "run `hetcompress convert CHECKPOINT --run another --force` again"
    assert again in hc("prune", "--density", 0.5, "--run", "another")[2]
    monkeypatch.setenv("HETCOMPRESS_RUN", "another")
    assert "run `hetcompress convert CHECKPOINT --run hetrun` first" in hc("report", "--run", "hetrun")[2]
