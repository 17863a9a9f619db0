"""Single layers: the vector-block kernel against the dense convolutions of onnxruntime and torch, one thread.

    taskset -c 0 python benchmarks/kernels/layers.py

For each layer, density and batch all runners are timed in turns.  Ours runs in onnxruntime, with planar images in and
out and with blocked ones; outputs are bound beforehand for all onnxruntime sessions.  `speed` is the time of
onnxruntime's dense layer over ours; `gflops` counts the kept weights only; `peak` is what one core multiplies and adds
in registers, measured in the same run.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import nn

from hetcompress.graphs import ONNX_OPSET, onnx_bytes, ort_session
from hetcompress.kernels import VectorBlockConv2d, available, blocked, pack, unpack
from hetcompress.latency import measure
from hetcompress.machine import machine
from hetcompress.onnx_forms import LayerNodes, own_operators

HERE = Path(__file__).parent
LAYERS = [
    *((channels, size, 3) for channels, size in ((64, 32), (128, 16), (256, 8), (512, 4))),
    *((channels, size, 3) for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *((channels, size, 1) for channels, size in ((64, 56), (256, 14), (512, 7))),
]
DENSITIES = (1.0, 0.5, 0.25, 0.15, 0.1, 0.05)
VECTOR = 16


def measured_peak():
    """Return the peak of one core in GFLOP/s."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "peak"))
        flags = ["-O2", "-std=c++17", "-march=native", "-ffp-contract=fast"]
        subprocess.run(["c++", *flags, str(HERE / "peak.cpp"), "-o", program], check=True)
        return float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def bound(session, images):
    """Return a runner of a session whose output has its memory already."""
    import onnxruntime

    binding = session.io_binding()
    binding.bind_cpu_input("input", images)
    output = onnxruntime.OrtValue.ortvalue_from_numpy(session.run(None, {"input": images})[0])
    binding.bind_ortvalue_output("logits", output)
    return lambda: session.run_with_iobinding(binding)


def in_torch(conv, images):
    def run():
        with torch.inference_mode():
            return conv(images)

    return run


def kept(conv, density, generator):
    """Return a copy of a convolution in which each vector is kept with this probability."""
    values, taps, starts = pack(conv.weight.detach(), 1, VECTOR)
    mask = torch.rand(len(values), 1, generator=generator) < density
    copy = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    copy.weight.data = unpack(values * mask, taps, starts, tuple(conv.weight.shape), 1)
    return VectorBlockConv2d.from_pruned(copy, VECTOR).eval()


def alone(form, images, output):
    """Return a session of one of our layers, in the layouts that it has."""
    import onnx

    layer = LayerNodes("")
    layer.emit(form, "input")
    layer.nodes[-1].output[0] = "logits"
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["n", *images[1:]]), ("logits", ["n", *output[1:]]))
    ]
    graph = onnx.helper.make_graph(layer.nodes, "layer", values[:1], values[1:], layer.initializers)
    opsets = [onnx.helper.make_opsetid("", ONNX_OPSET), *own_operators(layer.nodes)]
    return ort_session(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), 1)


def sessions(channels, size, kernel, densities):
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2).eval()
    generator = torch.Generator().manual_seed(0)
    planar_shape, blocked_shape = (1, channels, size, size), (1, channels // VECTOR, size, size, VECTOR)
    made = {("dense", 1.0): (ort_session(onnx_bytes(conv, torch.zeros(planar_shape)), 1), False)}
    executed = {}
    for density in densities:
        ours = kept(conv, density, generator)
        inner = ours.with_geometry(layout_in=1, layout_out=1)
        executed[density] = ours.executed_weights
        made["planar", density] = (alone(ours, planar_shape, planar_shape), False)
        made["blocked", density] = (alone(inner, blocked_shape, blocked_shape), True)
    return conv, made, executed


def rows(layer, prepared, batch, seconds, peak):
    channels, size, kernel = layer
    conv, made, executed = prepared
    images = torch.randn(batch, channels, size, size)
    inputs = (images.numpy(), blocked(images, VECTOR).numpy())
    runners = {name: bound(session, inputs[is_blocked]) for name, (session, is_blocked) in made.items()}
    runners["torch", 1.0] = in_torch(conv, images)
    times = {name: statistics.median(samples) for name, samples in measure(runners, seconds=seconds).items()}
    for (form, density), milliseconds in times.items():
        weights = executed.get(density, conv.weight.numel()) if form in ("planar", "blocked") else conv.weight.numel()
        gflops = 2e-6 * weights * size * size * batch / milliseconds
        yield {
            "layer": f"{channels}@{size}x{size} {kernel}x{kernel}", "batch": batch, "form": form, "density": density,
            "ms": round(milliseconds, 4), "gflops": round(gflops, 1), "of_peak": round(gflops / peak, 3),
            "speed": round(times["dense", 1.0] / milliseconds, 2),
            "of_own_dense": round(gflops / (2e-6 * conv.weight.numel() * size * size * batch / times[form, 1.0]), 3),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "layers.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer and batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    peak, table = measured_peak(), []
    for layer in LAYERS:
        prepared = sessions(*layer, DENSITIES)
        for batch in options.batches:
            found = list(rows(layer, prepared, batch, options.seconds, peak))
            table += found
            for row in found:
                if row["density"] in (1.0, 0.15, 0.05):
                    print(json.dumps(row), flush=True)
    result = {
        "machine": machine().to_json(),
        "path": available()[1],
        "threads": 1,
        "peak_gflops": peak,
        "rows": table,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
