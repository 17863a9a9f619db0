"""Single layers: the vector-block kernel against the dense convolutions of onnxruntime and torch.

    python benchmarks/kernels/layers.py [--out FILE] [--layers N] [--batches 1 16] [--threads 1 2]

For each layer, batch and number of threads all runners are timed in turns.  Ours runs in onnxruntime, with planar
images in and out and with blocked ones; outputs are bound beforehand for all onnxruntime sessions.  `stock` is the
form of onnxruntime's own operators that executes the fewest MACs of the same weights.  `channels` is a dense layer in
onnxruntime with fewer channels on both sides, in multiples of 16: what channel pruning leaves at that density.
`speed` is the time of onnxruntime's dense layer over that of the row; `gflops` counts the weights that are multiplied;
`peak` is what so many cores multiply and add in registers, measured in the same run.  Rows are written as they are
made; a second call goes on where the first stopped, on the same machine, and --minutes ends a call early.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from hetcompress.graphs import ONNX_OPSET, onnx_bytes, ort_session
from hetcompress.kernels import VectorBlockConv2d, available, blocked
from hetcompress.latency import measure, torch_threads
from hetcompress.lowering import ORDER, conv_weights, forms_of
from hetcompress.machine import machine
from hetcompress.nn import HetConv2d
from hetcompress.onnx_forms import LayerNodes, own_operators

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution that keeps the size of its images, or halves it."""

    channels: int
    filters: int
    size: int
    kernel: int = 3
    stride: int = 1

    def __str__(self):
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.channels}-{self.filters}@{self.size} {self.kernel}x{self.kernel}{stride}"

    def conv(self, share=1.0):
        """Return it with this share of its weights, in whole channels."""
        inside, out = (max(16, round(number * math.sqrt(share) / 16) * 16) for number in (self.channels, self.filters))
        return nn.Conv2d(inside, out, self.kernel, self.stride, self.kernel // 2).eval()

    @property
    def pixels(self):
        return (self.size // self.stride) ** 2


VGG_32 = [Layer(64, 64, 32), Layer(128, 128, 16), Layer(256, 256, 8), Layer(512, 512, 4), Layer(512, 512, 2)]
VGG_224 = [Layer(64, 64, 224), Layer(128, 128, 112), Layer(256, 256, 56), Layer(512, 512, 28), Layer(512, 512, 14)]
RESNET_34 = [Layer(64, 64, 56), Layer(128, 128, 28), Layer(256, 256, 14), Layer(512, 512, 7), Layer(128, 256, 28, 3, 2)]
RESNET_50 = [
    Layer(64, 256, 56, 1), Layer(256, 64, 56, 1), Layer(512, 128, 28, 1), Layer(1024, 256, 14, 1),
    Layer(2048, 512, 7, 1), Layer(512, 1024, 28, 1, 2),
]  # fmt: skip
LAYERS = {str(layer): layer for layer in (*VGG_32, *RESNET_34, *RESNET_50, *VGG_224)}
DENSITIES = (1.0, 0.5, 0.25, 0.15, 0.1, 0.05)
VECTOR = 16
DENSE = ("dense", 1.0)


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
    blocks = (conv.out_channels // VECTOR, conv.in_channels, *conv.kernel_size)
    return HetConv2d.from_conv2d(conv, torch.rand(blocks, generator=generator) < density, VECTOR, 1)


def in_stock_operators(pruned):
    """Return the form with the fewest MACs of those that stock operators have for it; None where that is dense."""
    forms, _ = forms_of(pruned, ORDER)
    thriftiest = min(forms, key=lambda name: conv_weights(forms[name]))
    return None if thriftiest == "dense" else forms[thriftiest].eval()


def alone(form, images, output, threads):
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
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort_session(model.SerializeToString(), threads)


@dataclasses.dataclass(frozen=True)
class Models:
    """What is compared for a layer; everything but `dense` by its density.

    Attributes:
        dense: The layer itself.
        ours: Its kept vectors.
        stock, channels: See above.
    """

    dense: nn.Conv2d
    ours: dict[float, VectorBlockConv2d]
    stock: dict[float, nn.Module]
    channels: dict[float, nn.Conv2d]


@functools.cache
def models(layer):
    """Return what is compared for a layer."""
    conv, generator = layer.conv(), torch.Generator().manual_seed(0)
    pruned = {density: kept(conv, density, generator) for density in DENSITIES}
    stock = {density: in_stock_operators(masked) for density, masked in pruned.items()}
    return Models(
        conv,
        {density: VectorBlockConv2d.from_pruned(masked, VECTOR).eval() for density, masked in pruned.items()},
        {density: form for density, form in stock.items() if form is not None},
        {density: layer.conv(density) for density in DENSITIES if density < 1},
    )


@functools.cache
def exported(module, size):
    """Return a module as a file, for images of this size."""
    return onnx_bytes(module, torch.zeros(1, *size))


def by_stock_operators(module, images, threads):
    """Return a runner in onnxruntime of what needs no operator of ours."""
    return bound(ort_session(exported(module, images.shape[1:]), threads), images.numpy())


def ours_and_dense(layer, images, threads):
    """Return runners of a layer by form and density, and the weights that each multiplies."""
    compared = models(layer)
    outputs = torch.empty(1, layer.filters, layer.size // layer.stride, layer.size // layer.stride)
    runners = {
        DENSE: by_stock_operators(compared.dense, images, threads),
        ("torch", 1.0): in_torch(compared.dense, images),
    }
    weights = dict.fromkeys(runners, compared.dense.weight.numel())
    for density, ours in compared.ours.items():
        inner = ours.with_geometry(layout_in=1, layout_out=1)
        for form, module, change in (("planar", ours, lambda x: x), ("blocked", inner, lambda x: blocked(x, VECTOR))):
            changed = change(images)
            session = alone(module, changed.shape, change(outputs).shape, threads)
            runners[form, density] = bound(session, changed.numpy())
            weights[form, density] = ours.executed_weights
    for density, narrow in compared.channels.items():
        runners["channels", density] = by_stock_operators(narrow, images[:, : narrow.in_channels].contiguous(), threads)
        weights["channels", density] = narrow.weight.numel()
    return runners, weights


def stock_and_dense(density, layer, images, threads):
    """Return the like of a stock form; what it gathers on its way leaves the largest images no memory for others."""
    compared = models(layer)
    runners = {DENSE: by_stock_operators(compared.dense, images, threads)}
    weights = {DENSE: compared.dense.weight.numel()}
    runners["stock", density] = by_stock_operators(compared.stock[density], images, threads)
    weights["stock", density] = conv_weights(compared.stock[density])
    return runners, weights


def rows(layer, batch, threads, seconds, peak):
    """Return what was measured for one layer."""
    images = torch.randn(batch, layer.channels, layer.size, layer.size, generator=torch.Generator().manual_seed(0))
    found = timed(layer, ours_and_dense, images, threads, seconds, peak)
    for density in models(layer).stock:
        compared = functools.partial(stock_and_dense, density)
        found += timed(layer, compared, images, threads, seconds / len(DENSITIES), peak)[1:]
    return found


def timed(layer, compared, images, threads, seconds, peak):
    """Return the rows of what is compared with the dense layer in one run."""
    with torch_threads(threads):
        runners, weights = compared(layer, images, threads)
        measured = measure(runners, seconds=seconds, min_rounds=5)
    batch = len(images)
    times = {name: statistics.median(samples) for name, samples in measured.items()}
    rates = {name: 2e-6 * weights[name] * layer.pixels * batch / times[name] for name in times}
    return [
        {
            "layer": str(layer), "batch": batch, "threads": threads, "form": form, "density": density,
            "ms": round(milliseconds, 4), "gflops": round(rates[form, density], 1),
            "of_peak": round(rates[form, density] / peak / threads, 3),
            "mac_ratio": round(weights[DENSE] / weights[form, density], 2),
            "speed": round(times[DENSE] / milliseconds, 2),
            **({"of_own_dense": round(rates[form, density] / rates[form, 1.0], 3)} if (form, 1.0) in rates else {}),
        }
        for (form, density), milliseconds in times.items()
    ]  # fmt: skip


def opened(path):
    """Return the results so far, for more of the same machine.

    Raises:
        SystemExit: They are another machine's.
    """
    here = machine().to_json()
    found = json.loads(path.read_text()) if path.exists() else {"machine": here, "rows": []}
    if any(found["machine"][name] != here[name] for name in ("cpu", "flags")):
        raise SystemExit(f"{path} has the rows of another machine: {found['machine']}")
    return found | {"machine": here}


def write(path, found):
    """Write the results, a row a line."""
    head = json.dumps({name: value for name, value in found.items() if name != "rows"}, indent=1)[:-2]
    lines = ",\n".join(json.dumps(row) for row in found["rows"])
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "layers.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer, batch and number of threads")
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS), metavar="LAYER")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    peak = measured_peak()
    end = time.monotonic() + 60 * options.minutes
    found = opened(options.out) | {"path": available()[1], "peak_gflops": peak}
    done = {(row["layer"], row["batch"], row["threads"]) for row in found["rows"]}
    for threads, batch, name in itertools.product(options.threads, options.batches, options.layers):
        if (name, batch, threads) in done or time.monotonic() > end:
            continue
        found["rows"] += rows(LAYERS[name], batch, threads, options.seconds, peak)
        write(options.out, found)
        speeds = {
            row["density"]: (row["speed"], row["of_own_dense"])
            for row in found["rows"]
            if (row["layer"], row["batch"], row["threads"], row["form"]) == (name, batch, threads, "blocked")
        }
        print(name, "batch", batch, "threads", threads, speeds, flush=True)


if __name__ == "__main__":
    main()
