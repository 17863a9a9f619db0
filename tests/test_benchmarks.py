"""Benchmarks on a small scale: of kernels, and those that need a machine that is not everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hetcompress.kernels import available

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPT = BENCHMARKS / "speed" / "torch_cuda.py"
SINGLE_LAYERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import int8, layers
made = layers.rows(layers.Layer(32, 32, 4), 1, 1, 0.01, 1.0), list(int8.rows((32, 4, 3, 1), 1, 0.01))
print(json.dumps(made))
"""


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


@pytest.mark.skipif(not available()[0], reason=f"no compiled kernels: {available()[1]}")
def test_single_layers_are_timed():
    command = [sys.executable, "-c", SINGLE_LAYERS, str(BENCHMARKS / "kernels")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    layers, int8 = json.loads(done.stdout)
    assert {row["form"] for row in layers} >= {"dense", "torch", "planar", "blocked", "channels", "stock"}
    assert [row["density"] for row in int8] == [1.0, 0.5, 0.25, 0.15]
    assert all(row["ms"] > 0 for row in (*layers, *int8))
