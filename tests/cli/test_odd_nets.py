"""Nets that use their convolutions in unusual ways go through all commands."""

import pytest
import torch

from hetcompress.models import parse_architecture

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.named = nn.Conv2d(16, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.read = nn.Conv2d(16, 16, 3, padding=1)
        self.aux = nn.Conv2d(16, 4, 3)
        self.hooked = nn.Conv2d(16, 16, 1)
        self.hooked.register_forward_hook(lambda module, inputs, output: output + 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x).relu().float()
        x = self.named(input=x).relu()
        x = F.max_pool2d(self.twice(x).relu(), 2)
        x = self.twice(x).relu()
        x = F.conv2d(x, self.read.weight, self.read.bias, padding=1)
        if self.training:
            x = x + self.aux(x).mean()
        return self.head(self.hooked(x).mean((2, 3)))
"""

REASONS = {
    "stem": "first convolution",
    "named": "is called with a named argument",
    "read": "does not run as a module in evaluation",
    "aux": "does not run as a module in evaluation",
    "hooked": "has forward hooks, which would be lost",
}


def test_a_net_of_odd_calls_goes_through_all_commands(hc, tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    torch.save(parse_architecture(f"{tmp_path}/net.py:Net").build().state_dict(), tmp_path / "model.pt")
    arch = ("--arch", "net.py:Net")
    code, out, err = hc("convert", "model.pt", *arch, "--input-size", 3, 12, 12, "--group-out", 8)
    assert code == 0, err
    for name, reason in REASONS.items():
        assert any(
            line.split()[0] == name and line.rstrip().endswith(f"stays dense: {reason}") for line in out.splitlines()
        ), out
    assert "1 of 6 convolutions converted" in out
    code, _, err = hc("prune", *arch, "--density", 0.4)
    assert code == 0, err
    code, _, err = hc("report", *arch, "--seconds", 0)
    assert code == 0, err
    code, out, err = hc("export", *arch, "--onnx", "--pt2", "--safetensors", "--seconds", 0)
    assert code == 0, err
    assert out.count("verified: ") == 3


def test_a_dry_run_tries_the_images(hc, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef flat():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 2))\n"
    )
    torch.save(parse_architecture(f"{tmp_path}/net.py:flat").build().state_dict(), tmp_path / "model.pt")
    command = ("convert", "model.pt", "--arch", "net.py:flat", "--input-size", 3)
    results = [hc(*command, 9, 9, *dry) for dry in ((), ("--dry-run",))]
    assert results[0] == results[1]
    assert results[0][0] == 2
    assert "expected a forward pass on images of shape (2, 3, 9, 9)" in results[0][2]
    assert hc(*command, 8, 8, "--dry-run")[0] == 0


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_nothing_converted_is_an_exit_code_of_its_own(hc, digits, dry):
    code, _, err = hc("convert", "model.pt", *digits, "--exclude", "*", *dry)
    assert (code, err.count("\n")) == (4, 1)
    assert "no convolution was converted" in err


def test_code_beside_the_run_is_not_taken_for_a_registered_net(hc, digits, tmp_path):
    hc("convert", "model.pt", *digits)
    manifest = tmp_path / "hetrun" / "run.json"
    (tmp_path / "timm:x").mkdir()
    (tmp_path / "timm:x" / "evil.py").write_text("raise SystemExit(99)\n")
    manifest.write_text(manifest.read_text().replace('"hetcompress:digits_net"', '"timm:x/evil.py:f"'))
    code, _, err = hc("prune", "--density", 0.5)
    assert code == 2
    assert "code is never run because a file says so" in err
