"""The command line as a user meets it: what it prints, where, and its exit codes."""

import dataclasses
import functools
import json
import operator
import os
import re
import subprocess
import sys

import pytest
import torch

from hetcompress.models import MODELS
from hetcompress.nn import HetConv2d
from hetcompress.targets import Truth

SMOKE = ("finetune", "--data", "digits", "--max-steps", 6, "-b", 32, "-q")


def test_the_four_commands(hc, digits, tmp_path):
    code, out, _ = hc("convert", "model.pt", *digits)
    assert code == 0
    assert "conv1  Conv2d 3x3  stays dense: first convolution" in out
    assert "3 of 4 convolutions converted" in out
    assert " MACs for an image of 1 x 8 x 8\n" in out
    assert "ratio" not in out, "what stays dense bounds none: filters that nothing reads go there too"
    assert "largest difference to the source's outputs: 0\n" in out
    code, out, err = hc(*SMOKE, "--mac-ratio", 2)
    assert code == 0, err
    assert err.startswith("NOTE: stage 1 ends after step 2, before --method blend first chooses shapes: "), (
        "-q leaves it"
    )
    assert err.count("\n") == 1, "a target is not called too hard where the haste is to blame"
    assert out.count("\n") == 1, "-q leaves the line that tells the result"
    finetuned = json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]["finetune"]
    assert list(finetuned["accuracies"]) == [
        "source", "converted", "after stage 1", "after pruning", "after recalibration", "after stage 2",
    ]  # fmt: skip
    code, out, err = hc("report", "--json", "--seconds", 0, "--csv", "layers.csv")
    assert code == 0, err
    result = json.loads(out)
    assert result["schema"] == 1
    assert result["result"]["latency"] == []
    assert result["result"]["mac_ratio_effective"] == pytest.approx(2, rel=0.01)
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 6
    assert (
        json.loads((tmp_path / "hetrun" / "report" / "report.json").read_text())["architecture"]
        == "hetcompress:digits_net"
    )
    code, out, err = hc("export", "--onnx", "--pt2", "--safetensors", "--seconds", 0)
    assert code == 0, err
    for name in ("model.onnx", "model.pt2", "model.safetensors"):
        assert (tmp_path / "hetrun" / "export" / name).stat().st_size > 0
        assert f"verified: hetrun/export/{name}" in out
    assert "accuracy after export:" in out
    assert "nothing was trained" not in err
    lines = [json.loads(line) for line in (tmp_path / "hetrun" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 6


def test_accuracy_of_what_was_never_trained_is_put_into_its_place(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.3)
    code, out, err = hc("export", "--onnx", "--data", "digits", "--seconds", 0)
    assert code == 0, err
    assert "accuracy after export:" in out
    assert "NOTE: nothing was trained after pruning, which costs accuracy; `hetcompress finetune` wins it back" in err
    (tmp_path / "hetrun").rename(tmp_path / "other")
    err = hc("export", "--onnx", "--data", "digits", "--seconds", 0, "--run", "other", "--force")[2]
    assert "`hetcompress finetune --run other` wins it back" in err


def test_files_are_planned_in_the_runtime_that_opens_them(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.3)
    for options, target in ((("--pt2",), "torch-cpu"), (("--onnx", "--pt2"), "ort-cpu"),
                            (("--pt2", "--target", "ort-cpu"), "ort-cpu")):  # fmt: skip
        assert hc("export", *options, "--seconds", 0)[0] == 0
        assert json.loads((tmp_path / "hetrun" / "plan.json").read_text())["target"] == target


def test_report_as_a_table_with_latency(hc, digits):
    hc("convert", "model.pt", *digits)
    assert hc("prune", "--density", 0.5)[0] == 0
    code, out, err = hc("report", "--seconds", 0.05, "--batch", 1)
    assert code == 0, err
    for word in ("MACs executed", "ONNX, bytes", "time ratio", "onnxruntime", "torch", "kernel shapes", "density 0."):
        assert word in out


def test_what_may_help_where_nothing_is_faster(hc, digits, library):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 1.0)
    for command in (("report",), ("export", "--onnx")):
        code, out, err = hc(*command, "--seconds", 0.02, "--batch", 1, "--plan", "macs")
        assert code == 0, err
        slow = "not faster than the dense" in err or "not shown to be faster than the dense" in err
        assert ("to try: without --plan macs" in out) == slow
        assert "to try" not in hc(*command, "--seconds", 0, "--plan", "macs")[1]
        assert "to try" not in hc(*command, "--seconds", 0.02, "--batch", 1)[1], "nothing is left out"


def test_strict_export_fails_but_says_why(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 1.0)
    code, _, err = hc("export", "--onnx", "--seconds", 0, "--strict")
    assert (code, "--strict: expected time to see what is faster, found --seconds 0" in err) == (2, True)
    code, _, err = hc("export", "--onnx", "--seconds", 0.05, "--batch", 1, "--strict")
    assert code == 5
    assert "export --strict: expected smaller and faster, found model.onnx is not smaller" in err
    assert not any((tmp_path / "hetrun" / "export").iterdir())
    assert not (tmp_path / "hetrun" / "plan.json").exists()


def test_a_failed_export_leaves_what_an_earlier_one_wrote(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 1.0)
    run = tmp_path / "hetrun"
    assert hc("export", "--onnx", "--seconds", 0, "--plan", "macs")[0] == 0
    kept = {path: path.read_bytes() for path in (run / "export" / "model.onnx", run / "plan.json", run / "run.json")}
    assert hc("export", "--onnx", "--pt2", "--seconds", 0.05, "--batch", 1, "--strict", "--plan", "fast")[0] == 5
    assert {path: path.read_bytes() for path in kept} == kept
    assert [path.name for path in (run / "export").iterdir()] == ["model.onnx"]


def test_prune_then_train_the_rest(hc, digits):
    hc("convert", "model.pt", *digits, "--family", "centre", "--family-arg", "block=1")
    code, out, _ = hc("prune", "--mac-ratio", 1.5)
    assert code == 0
    reached = re.search(r"MAC ratio ([\d.]+) \(effective\)", out)
    assert float(reached[1]) == pytest.approx(1.5, rel=0.01)
    code, out, err = hc(*SMOKE, "--stage", "fine")
    assert code == 0, err
    assert "after stage 1" not in out
    assert reached[0] in out


def test_pruning_again_forgets_what_was_measured_before(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc(*SMOKE)
    assert "finetune" in json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]
    hc("prune", "--density", 0.5, "--force")
    assert set(json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]) == {"convert", "prune"}


def test_pruning_again_removes_what_speaks_of_the_net_before(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc(*SMOKE)
    hc("export", "--safetensors", "--seconds", 0)
    hc("report", "--no-latency")
    run = tmp_path / "hetrun"
    assert (run / "metrics.jsonl").exists()
    assert (run / "plan.json").exists()
    hc("prune", "--density", 0.5, "--force")
    assert not any((run / name).exists() for name in ("metrics.jsonl", "plan.json", "report", "export"))


def test_the_plan_that_is_kept_is_the_one_that_was_exported(hc, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "hetrun"
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    code, out, _ = hc("report", "--no-latency")
    assert code == 0
    assert "stands in report/report.json" in out
    assert not (run / "plan.json").exists()
    assert "stands in plan.json" in hc("export", "--onnx", "--seconds", 0)[1]
    kept = (run / "plan.json").read_bytes()
    assert json.loads(kept)["plan"] == json.loads((run / "run.json").read_text())["stages"]["export"]["plan"]["plan"]
    assert hc("report", "--no-latency", "--plan", "macs")[0] == 0
    assert json.loads((run / "report" / "report.json").read_text())["plan"]["plan"] == "macs"
    assert hc("bench", "lowered", "-b", 1, "--seconds", 0.01)[0] == 0
    assert (run / "plan.json").read_bytes() == kept


def test_targets_that_nobody_would_heed_are_refused(hc, digits):
    hc("convert", "model.pt", *digits)
    code, _, err = hc("prune")
    assert code == 2
    assert "target: expected one of --density, --mac-ratio, --latency-ratio, found none" in err
    hc("prune", "--density", 0.5)
    code, _, err = hc(*SMOKE, "--stage", "fine", "--density", 0.1)
    assert code == 2
    assert "--stage fine: expected no target" in err


@pytest.mark.parametrize("option", ["--mean", "--std"])
def test_normalisation_must_be_finite(hc, digits, option):
    code, _, err = hc("convert", "model.pt", *digits, option, "nan")
    assert code == 2
    assert f"{option}: expected finite numbers" in err


def test_dry_run_writes_nothing(hc, digits, tmp_path):
    code, out, _ = hc("convert", "model.pt", *digits, "--dry-run", "--json")
    assert code == 0
    assert (json.loads(out)["result"]["max_difference"], json.loads(out)["result"]["run"]) == (0, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_existing_run_is_kept_without_force(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    before = (tmp_path / "hetrun" / "run.json").read_bytes()
    code, _, err = hc("convert", "model.pt", *digits)
    assert (code, err.count("\n")) == (2, 1)
    assert "--force" in err
    assert (tmp_path / "hetrun" / "run.json").read_bytes() == before
    assert hc("convert", "model.pt", *digits, "--force", "--family", "rigid")[0] == 0
    assert b'"rigid"' in (tmp_path / "hetrun" / "run.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hetrun", "model.pt"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    code, _, err = hc("convert", "model.pt", *digits, "--run", "other", "--force")
    assert code == 2
    assert "found one that is not a run" in err
    assert "found a file. Fix: name another" in hc("convert", "model.pt", *digits, "--run", "model.pt")[2]
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"


CASES = {
    "no checkpoint": (("convert", "nowhere.pt"), 3, "found no such file"),
    "unknown family": (("convert", "model.pt", "--family", "rigit"), 2, "did you mean 'rigid'?"),
    "unknown arch": (("convert", "model.pt", "--arch", "hetcompress:digit_net"), 2, "did you mean 'digits_net'?"),
    "group size": (
        ("convert", "model.pt", "--group-out", "x"),
        2,
        "--group-out: expected a number of at least 1, or 'all'",
    ),
    "raised group size": (
        ("convert", "model.pt", "--group-out", "²"),
        2,
        "--group-out: expected a number of at least 1",
    ),
    "pattern": (("convert", "model.pt", "--exclude", "konv2"), 2, "did you mean 'conv2'?"),
    "nothing left": (("convert", "model.pt", "--exclude", "*"), 4, "no convolution was converted"),
    "input size": (("convert", "model.pt", "--input-size", 1, 2, 0), 2, "--input-size: expected positive numbers"),
    "input channels": (
        ("convert", "model.pt", "--arch", "hetcompress:digits_net", "--arch-arg", "width=16", "--input-size", 3, 8, 8),
        2,
        "--input-size: expected 1 channels, found 3",
    ),
    "input std": (
        (
            "convert",
            "model.pt",
            "--arch",
            "hetcompress:digits_net",
            "--arch-arg",
            "width=16",
            "--input-size",
            3,
            8,
            8,
            "--mean",
            "0,0,0",
        ),
        2,
        "--std: expected 3 numbers, one for each channel, found 1",
    ),
    "mean": (("convert", "model.pt", "--mean", "a,b"), 2, "--mean: expected numbers separated by commas"),
    "finetune first": (("finetune", "--data", "digits"), 3, "run `hetcompress convert CHECKPOINT` first"),
    "report first": (("report",), 3, "run `hetcompress convert CHECKPOINT` first"),
    "usage": (("convert",), 2, "Missing argument"),
    "option": (("report", "--nope"), 2, "No such option"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_bad_input(hc, digits, case, tmp_path):
    arguments, expected, message = CASES[case]
    extra = digits if arguments[:2] == ("convert", "model.pt") and "--arch" not in arguments else ()
    code, out, err = hc(*arguments, *extra)
    assert code == expected
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "hetrun").exists()


AFTER_CONVERT = {
    "export first": (("export", "--onnx"), 3, "hetcompress prune --mac-ratio 2"),
    "no target": (("export",), 2, "expected a target: --onnx, --pt2, --safetensors"),
    "data name": (("finetune", "--data", "cifar11"), 2, "did you mean 'cifar10'?"),
    "no data name": (("finetune",), 2, "pass --data NAME"),
    "missing data": (
        ("finetune", "--data", "imagefolder", "--data-root", "nowhere"),
        3,
        "expected one of nowhere/train",
    ),
    "other images": (("finetune", "--data", "cifar10", "--data-root", "nowhere"), 3, "found none of them"),
    "density 0": (
        ("finetune", "--data", "digits", "--density", 0),
        2,
        "--density: expected a number in (0, 1], found 0",
    ),
    "density 1.5": (("prune", "--density", 1.5), 2, "--density: expected a number in (0, 1], found 1.5"),
    "density nan": (("prune", "--density", "nan"), 2, "--density: expected a number in (0, 1], found nan"),
    "two targets": (
        ("prune", "--latency-ratio", 2, "--mac-ratio", 2),
        2,
        "expected one of --density, --mac-ratio, --latency-ratio, or --density with --mac-ratio",
    ),
    "time and density": (("prune", "--density", 0.5, "--latency-ratio", 2), 2, "found --density and --latency-ratio"),
    "latency ratio": (("prune", "--latency-ratio", 0.5), 2, "--latency-ratio: expected a number of at least 1"),
    "seed": (("finetune", "--data", "digits", "--seed", 10**23), 2, "--seed: expected an integer from 0 to 2**63 - 1"),
    "random": (("prune", "--density", 0.5, "--random", 10**23), 2, "--random: expected an integer from 0 to 2**63 - 1"),
    "workers": (("finetune", "--data", "digits", "-j", -1), 2, "--workers: expected a number of at least 0"),
    "seconds": (("export", "--onnx", "--seconds", -1), 2, "--seconds: expected a number of at least 0, found -1"),
    "seconds nan": (("report", "--seconds", "nan"), 2, "--seconds: expected a number of at least 0, found nan"),
    "unreachable": (("prune", "--mac-ratio", 500), 4, "cannot be reached within 1 %: expected MAC ratios 1 to"),
    "batch": (("finetune", "--data", "digits", "-b", 5000), 2, "--batch-size: expected at most the"),
}


@pytest.mark.parametrize("case", sorted(AFTER_CONVERT))
def test_bad_input_after_convert(hc, digits, case, tmp_path):
    assert hc("convert", "model.pt", *digits)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "hetrun").rglob("*") if path.is_file()}
    arguments, expected, message = AFTER_CONVERT[case]
    code, out, err = hc(*arguments)
    assert (code, out) == (expected, "")
    assert message in err
    assert err.strip().count("\n") <= (2 if "finetune" in arguments else 0)
    assert {path: path.read_bytes() for path in (tmp_path / "hetrun").rglob("*") if path.is_file()} == before


def test_wrong_class_count_of_the_data(hc, tmp_path):
    pytest.importorskip("sklearn")
    torch.save(MODELS["digits_net"].build(num_classes=7).state_dict(), tmp_path / "model.pt")
    hc("convert", "model.pt")
    code, _, err = hc(*SMOKE)
    assert code == 3
    assert "data digits: expected 7 classes, as the model has, found 10 classes" in err


def test_damaged_run_folders(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    manifest = tmp_path / "hetrun" / "run.json"
    text = manifest.read_text()
    for damaged, message in (
        (text.replace('"format": 1', '"format": 3'), "expected format 1, found format 3"),
        (text[:100], "expected a readable run.json, found no JSON from line"),
        ("[]", "expected a readable run.json, found no format number in it. Fix: run `hetcompress convert"),
    ):
        manifest.write_text(damaged)
        code, _, err = hc("prune", "--density", 0.5)
        assert code == 3
        assert message in err
    manifest.unlink()
    code, _, err = hc("prune", "--density", 0.5)
    assert (code, err.count("\n")) == (3, 1)
    assert (
        "found No such file or directory. Fix: run `hetcompress convert CHECKPOINT --run hetrun --force` again" in err
    )
    assert hc("convert", "model.pt", *digits)[0] == 2
    assert hc("convert", "model.pt", *digits, "--force")[0] == 0  # what was advised works
    manifest.unlink()
    (tmp_path / "hetrun" / "notes.txt").write_text("mine")
    assert "Fix: name another folder with --run: convert did not make this one" in hc("prune", "--density", 0.5)[2]
    assert hc("convert", "model.pt", *digits, "--force")[0] == 2
    assert (tmp_path / "hetrun" / "notes.txt").read_text() == "mine"
    manifest.write_text(text)
    (tmp_path / "hetrun" / "converted.safetensors").unlink()
    code, _, err = hc("prune", "--density", 0.5)
    assert code == 3
    assert "expected converted.safetensors, found no such file" in err
    (tmp_path / "hetrun" / "converted.safetensors").write_bytes(b"broken")
    assert hc("prune", "--density", 0.5)[0] == 3


GRAIN = {"family": "free", "family_arguments": {}, "group_out": 16, "group_in": 1}
DAMAGED = [
    ("input", None, "input.size is missing"),
    ("input.size", [1, 8], "input.size is not three positive integers"),
    ("input.mean", [0.1, 0.2], "input.mean is not 1 numbers"),
    ("input.std", [0], "input.std is not a list of positive numbers"),
    ("source", None, "source.bytes is missing"),
    ("stages", None, "stages is missing"),
    ("stages", [1], "stages is not objects by name"),
    ("stages.convert", {"accuracies": {"source": 9}}, "stages.convert.accuracies is no object"),
    ("architecture", "hetcompress:digits_net", "architecture.spec is missing"),
    ("architecture.spec", "hetcompress:digit_net", "found network 'digit_net'"),
    ("architecture.arguments", [], "architecture.arguments is not an object"),
    ("conversion.layers", None, "conversion.layers is missing"),
    (
        "conversion.layers",
        ["conv2"],
        "conversion.layers is not family, family_arguments, group_out and group_in by layer",
    ),
    ("conversion.layers", {}, "conversion.layers is not family"),
    ("conversion.layers", {"zzz": GRAIN}, "expected convolutions of the model under conversion.layers, found zzz"),
    ("conversion.layers.conv2.family", "cubic", "found shape family 'cubic'"),
    ("conversion.layers.conv2.family_arguments", {"parts": 2}, "found shape family 'free'"),
    ("conversion.layers.conv2.group_out", "x", "conversion.layers is not family"),
]


def test_damaged_manifests(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    manifest = tmp_path / "hetrun" / "run.json"
    text = manifest.read_text()
    for place, value, message in DAMAGED:
        damaged = json.loads(text)
        *outer, last = place.split(".")
        inner = functools.reduce(operator.getitem, outer, damaged)
        inner[last] = value
        if value is None:
            del inner[last]
        manifest.write_text(json.dumps(damaged))
        code, out, err = hc("prune", "--density", 0.5)
        assert (code, out, err.count("\n")) == (3, "", 1), (place, err)
        assert message in err
        assert "Fix: " in err


def test_users_factory_must_be_named_again(hc, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))\n"
    )
    from hetcompress.models import parse_architecture

    torch.save(parse_architecture("mine.py:net").build().state_dict(), tmp_path / "model.pt")
    code, _, err = hc("convert", "model.pt", "--arch", "mine.py:net")
    assert code == 2
    assert "pass --input-size CHANNELS HEIGHT WIDTH" in err
    assert hc("convert", "model.pt", "--arch", "mine.py:net", "--input-size", 3, 16, 16)[0] == 0
    code, _, err = hc("prune", "--density", 0.5)
    assert code == 2
    assert "code is never run because a file says so" in err
    assert hc("prune", "--density", 0.5, "--arch", "mine.py:net")[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_run_folder(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    (tmp_path / "hetrun").chmod(0o500)
    code, _, err = hc("prune", "--density", 0.5)
    (tmp_path / "hetrun").chmod(0o700)
    assert code == 1
    assert "cannot write" in err


@pytest.mark.parametrize(
    "command", [("export", "--onnx", "-o", "model.pt/files"), ("report", "--csv", "model.pt/rows")]
)
def test_a_file_that_cannot_be_written_is_noticed_before_planning(hc, digits, monkeypatch, command):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    monkeypatch.setattr("hetcompress.pipeline._report.make_plan", lambda *_: pytest.fail("too late"))
    code, _, err = hc(*command)
    assert code == 2
    assert f"cannot write {command[-1]}" in err


def test_a_run_that_cannot_be_written_is_noticed_before_training(hc, digits, monkeypatch):
    hc("convert", "model.pt", *digits)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    for arguments in (SMOKE[:-1], ("prune", "--density", 0.5)):
        code, out, err = hc(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "run folder hetrun: found Read-only file system. Fix: make it writable" in err


def test_outputs_in_the_way(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    (tmp_path / "folder").mkdir()
    for arguments in (("report", "--no-latency", "--csv", "folder"), ("export", "--safetensors", "--out", "model.pt")):
        code, _, err = hc(*arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "Fix: name another path" in err


def test_list_and_version(hc):
    code, out, _ = hc("list")
    assert code == 0
    for word in ("hetcompress:resnet20", "rigid", "sensitivity", "tap-gemm", "cifar10", "onnx"):
        assert word in out
    assert hc("-V")[1].startswith("hetcompress ")


def test_help_imports_nothing_heavy():
    probe = (
        "import sys; sys.argv = ['hetcompress', '--help']\n"
        "from hetcompress.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_files_are_held_against_the_pruned_model_itself(hc, digits, tmp_path, monkeypatch):
    """Not against the lowered one: a difference that lowering let pass would be forgotten."""
    hc("convert", "model.pt", *digits)
    hc("prune", "--density", 0.5)
    of = Truth.of

    def shifted(model, example, samples=None):
        truth = of(model, example, samples)
        masked = any(isinstance(module, HetConv2d) for module in model.modules())
        return dataclasses.replace(truth, outputs=tuple(out + 1 for out in truth.outputs)) if masked else truth

    monkeypatch.setattr(Truth, "of", shifted)
    code, _, err = hc("export", "--safetensors", "--seconds", 0, "--plan", "macs")
    assert code == 5
    assert "export --safetensors: expected outputs within 0.0001 of the model's" in err
    assert not (tmp_path / "hetrun" / "export" / "model.safetensors").exists()
