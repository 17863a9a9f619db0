"""What cannot be is refused before anything that takes time: models are built, data are read."""

import pytest

WITHOUT_MODEL = {
    "density 0": (("--density", 0), "--density: expected a number in (0, 1], found 0.0"),
    "density nan": (("--density", "nan"), "--density: expected a number in (0, 1], found nan"),
    "density inf": (("--density", "inf"), "--density: expected a number in (0, 1], found inf"),
    "MAC ratio 0": (("--mac-ratio", 0), "--mac-ratio: expected a number of at least 1, found 0.0"),
    "MAC ratio nan": (("--mac-ratio", "nan"), "--mac-ratio: expected a number of at least 1, found nan"),
    "latency ratio": (("--latency-ratio", 0.9), "--latency-ratio: expected a number of at least 1, found 0.9"),
    "two": (("--density", 0.5, "--latency-ratio", 2), "expected one of --density, --mac-ratio, --latency-ratio"),
    "runtime": (("--latency-ratio", 2, "--target", "ort-cpi"), "did you mean 'ort-cpu'?"),
}
TRAINING_ALONE = {
    "device": (("--device", "tpu"), "--device: expected auto, cpu or cuda, found tpu"),
    "stage": (("--stage", "second"), "--stage: expected both or fine, found 'second'. Fix: leave --stage out"),
    "resume": (("--resume", "yes"), "--resume: expected auto or never, found 'yes'"),
    "logits": (("--logit-lr", 5), "--logit-lr: expected --method penalty beside it, found --method blend"),
    "calibration": (("--calibration", 0.2), "--calibration: expected --method penalty beside it"),
    "precision": (("--amp-dtype", "int8"), "--amp-dtype: expected auto or float32"),
}
FINETUNE, PRUNE = ("finetune", "--data", "digits"), ("prune",)
PRUNING_ALONE = {
    "evenly": (("--latency-ratio", 2, "--evenly"), "--evenly: expected --density or --mac-ratio beside it"),
}
CASES = [
    *((PRUNE, *case) for case in PRUNING_ALONE.values()),
    *((command, *case) for case in WITHOUT_MODEL.values() for command in (FINETUNE, PRUNE)),
    *((FINETUNE, *case) for case in TRAINING_ALONE.values()),
]


def touched(*_, **__):
    raise AssertionError("touched")


@pytest.mark.parametrize(("command", "options", "message"), CASES)
def test_without_building_a_model_or_reading_data(hc, digits, monkeypatch, command, options, message):
    assert hc("convert", "model.pt", *digits)[0] == 0
    monkeypatch.setattr("hetcompress.artifacts.RunFolder._build", touched)
    monkeypatch.setattr("hetcompress.pipeline._common.open_data", touched)
    code, out, err = hc(*command, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("command", [("report",), ("export", "--onnx"), ("report", "--plan", "fast")])
def test_a_device_that_is_not_there(hc, monkeypatch, command):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = hc(*command, "--target", "torch-cuda")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--target torch-cuda: expected a CUDA device, found none" in err


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ((), ("--mac-ratio", 500), "target MAC ratio 500 cannot be reached within 1 %"),
        ((), ("--density", 1e-9), "target density 1e-09 cannot be reached within 1 %"),
        (("--family", "hetconv", "--family-arg", "parts=2"), ("--density", 0.9), "leave the target out"),
    ],
)
def test_unreachable_without_reading_data(hc, digits, monkeypatch, family, options, message):
    assert hc("convert", "model.pt", *digits, *family)[0] == 0
    monkeypatch.setattr("hetcompress.pipeline._common.open_data", touched)
    code, out, err = hc(*FINETUNE, *options)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "nan"), "--mean: expected finite numbers"),
        (("--std", "0"), "--std: expected positive numbers"),
        (("--input-size", 1, 0, 8), "--input-size: expected positive numbers"),
        (("--granularity", "vectr"), "did you mean 'vector'?"),
        (("--target", "ort-cpi"), "did you mean 'ort-cpu'?"),
    ],
)
def test_images_of_no_model_without_reading_the_checkpoint(hc, digits, monkeypatch, options, message):
    monkeypatch.setattr("hetcompress.models.loading.read_state_dict", touched)
    code, out, err = hc("convert", "model.pt", *digits, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
