"""Benchmarks that need a machine that is not everywhere: they run, on a small scale, where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "speed" / "torch_cuda.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )


def test_the_cuda_table_on_a_cpu(tmp_path):
    out = tmp_path / "cuda.json"
    small = (
        "--out", out, "--device", "cpu", "--nets", "vgg16", "--models", "channels *", "--ratios", 3, "--batches", 2,
        "--backend", "aot_eager", "--seconds", 0,
    )  # fmt: skip
    result = run(*small)
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["mode"], row["batch"], row["dtype"]) for row in rows] == [
        ("eager", 2, "bfloat16"),
        ("compiled", 2, "bfloat16"),
    ]
    assert all(row["mac_ratio"] == pytest.approx(3, rel=0.05) and row["time_ratio"] > 0 for row in rows)
    before = out.read_text()
    assert run(*small).returncode == 0
    assert out.read_text() == before, "rows that stand there are not made again"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_table_says_so(tmp_path):
    result = run("--out", tmp_path / "cuda.json")
    assert result.returncode == 2
    assert "no CUDA device; --device cpu tries the script out" in result.stderr
    assert not (tmp_path / "cuda.json").exists()
