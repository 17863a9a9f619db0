"""``hetcompress convert`` on checkpoints that are not quite what one would like."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from hetcompress.models import MODELS


def test_a_source_without_finite_outputs(hc, digits, tmp_path):
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    for kind in ("weight", "bias"):
        state["state_dict"][f"linear.{kind}"][0] = 3.3e38
    torch.save(state, tmp_path / "model.pt")
    code, out, err = hc("convert", "model.pt", *digits)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "the source's outputs are not finite" in err


def test_averaged_weights_that_are_not_there(hc, digits):
    code, _, err = hc("convert", "model.pt", *digits, "--ema")
    assert code == 3
    assert "expected averaged weights under state_dict_ema, " in err
    assert "found the keys state_dict. Fix: leave --ema out" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", "rigit"), "did you mean 'rigid'?"),
        (("--family", "hetconv", "--group-out", 4), "expected 1 for the hetconv family"),
        (("--mean", "0.5,0.5"), "--mean: expected 1 numbers"),
        (("--std", "0"), "expected positive numbers"),
        (("--family", "hetconv", "--family-arg", "parts=0"), "parts of family 'hetconv': expected an integer"),
        (("--family-arg", "parts=2"), "expected arguments that it takes, found got an unexpected keyword argument"),
    ],
)
def test_dry_run_refuses_what_the_real_run_does(hc, digits, options, message):
    results = [hc("convert", "model.pt", *digits, *options, *dry) for dry in ((), ("--dry-run",))]
    assert results[0] == results[1]
    code, out, err = results[0]
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_an_argument_of_another_type():
    # in a process of its own, where no test tool checks types
    options = ["convert", "model.pt", "--family", "hetconv", "--family-arg", "parts=abc"]
    done = subprocess.run([sys.executable, "-m", "hetcompress", *options], capture_output=True, text=True, check=False)
    message = "error: parts of family 'hetconv': expected an integer of at least 1, found 'abc'\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_a_common_prefix_is_taken_off(hc, digits, tmp_path):
    state = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"]
    torch.save({"state_dict": {f"net.{name}": tensor for name, tensor in state.items()}}, tmp_path / "model.pt")
    code, out, err = hc("convert", "model.pt", *digits)
    assert code == 0, err
    assert err == "NOTE: all names of model.pt begin with 'net.', which was taken off\n"
    wrapped = {f"model.{name}": tensor for name, tensor in MODELS["resnet20"].build().state_dict().items()}
    torch.save(wrapped, tmp_path / "model.pt")
    code, out, err = hc("convert", "model.pt", "--dry-run", "--force", "--json")
    assert code == 0, err
    assert json.loads(out)["result"]["architecture"] == "hetcompress:resnet20"
    assert json.loads(out)["result"]["notes"] == ["all names of model.pt begin with 'model.', which was taken off"]


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
def test_a_flipped_bit_is_found_by_the_checksum_in_the_name(hc, digits, tmp_path, suffix):
    state = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"]
    plain, sha = tmp_path / f"net{suffix}", ""
    while not set(sha) & set("abcdef"):  # one of 43 has none, and would pass for a date
        next(iter(state.values())).add_(1e-3)
        if suffix == ".th":
            torch.save(state, plain, _use_new_zipfile_serialization=False)
        else:
            save_file(state, plain)
        data = bytearray(plain.read_bytes())
        sha = hashlib.sha256(data).hexdigest()[:8]
    named = tmp_path / f"net-{sha}{suffix}"
    named.write_bytes(data)
    assert hc("convert", named, *digits, "--dry-run")[0] == 0
    data[-2000] ^= 1
    named.write_bytes(data)
    code, _, err = hc("convert", named, *digits, "--dry-run")
    assert (code, err.count("\n")) == (3, 1)
    assert f"expected a file whose SHA-256 begins with {sha}, as its name says" in err
    (tmp_path / f"net-20240131{suffix}").write_bytes(data)  # a date
    assert hc("convert", tmp_path / f"net-20240131{suffix}", *digits, "--dry-run")[0] == 0
