"""Single layers in 8 bits: the vector-block kernel against itself in fp32 and onnxruntime's dense layers, one thread.

    taskset -c 0 python benchmarks/kernels/int8.py

All runners run in onnxruntime, with their outputs bound, and are timed in turns.  Ours is planar in 8 bits, and blocked
(its best) in fp32.  `fp32`, `qlinear` and `dense` say how many times as fast ours in 8 bits is as ours in fp32 of the
same density, as onnxruntime's dense QLinearConv, and as its dense fp32 Conv.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from layers import alone, bound, kept
from torch import nn

from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import DOMAIN, VectorBlockConv2d, blocked
from hetcompress.kernels.int8_library import Held, int8_paths, quantise_filters
from hetcompress.kernels.int8_onnx import Int8Filters, int8_node
from hetcompress.latency import measure
from hetcompress.machine import machine

HERE = Path(__file__).parent
VGG16 = [(64, 32, 3, 1), (128, 16, 3, 1), (256, 8, 3, 1), (512, 4, 3, 1), (512, 2, 3, 1)]
RESNET34 = [(64, 56, 3, 1), (128, 28, 3, 1), (256, 14, 3, 1), (512, 7, 3, 1), (64, 56, 3, 2), (256, 14, 1, 1)]
DENSITIES = (1.0, 0.5, 0.25, 0.15)
VECTOR = 16
IMAGES, OUTPUT = Held(0.02, 0), Held(0.05, 128)


def session(nodes, constants, images, output):
    """Return a session of a graph from uint8 to uint8 images."""
    import onnx

    graph = onnx.helper.make_graph(
        nodes, "layer",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.UINT8, images)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.UINT8, output)], constants,
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", 18), (DOMAIN, 1))]
    return ort_session(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(), 1)


def ours(layer, images):
    values, scales = quantise_filters(layer.values, layer.starts, layer.geometry.out_channels, layer.geometry.groups)
    bias = (layer.bias.detach() / (scales * IMAGES.scale)).round().int()
    filters = Int8Filters(values, scales, layer.taps, layer.starts, bias)
    node, constants = int8_node("conv", "input", "logits", filters, layer.geometry, IMAGES, OUTPUT)
    output = layer.geometry.output_shape(images, VECTOR)
    return session([node], constants, images, output)


def qlinear(conv, images, output):
    import onnx

    scales = conv.weight.detach().abs().amax((1, 2, 3)) / 127
    weight = (conv.weight.detach() / scales[:, None, None, None]).round().to(torch.int8)
    numbers = {
        "x_scale": np.float32(IMAGES.scale), "x_zero": np.uint8(IMAGES.zero), "w": weight.numpy(),
        "w_scale": scales.numpy(), "w_zero": np.zeros(len(scales), np.int8), "y_scale": np.float32(OUTPUT.scale),
        "y_zero": np.uint8(OUTPUT.zero), "b": (conv.bias.detach() / (scales * IMAGES.scale)).round().int().numpy(),
    }  # fmt: skip
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    pads, strides = [*conv.padding, *conv.padding], list(conv.stride)
    node = onnx.helper.make_node("QLinearConv", ["input", *numbers], ["logits"], pads=pads, strides=strides)
    return session([node], constants, images, output)


def rows(layer, batch, seconds):
    channels, size, kernel, stride = layer
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2).eval()
    images = torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8)
    real = IMAGES.real(images)
    output = tuple(conv(real).shape)
    runners = {
        ("dense", 1.0): bound(ort_session(onnx_bytes(conv, real), 1), real.numpy()),
        ("qlinear", 1.0): bound(qlinear(conv, images.shape, output), images.numpy()),
    }
    for density in DENSITIES:
        pruned = VectorBlockConv2d.from_pruned(kept(conv, density, generator), VECTOR)
        inner = pruned.with_geometry(layout_in=1, layout_out=1)
        inputs = blocked(real, VECTOR)
        result = inner.geometry.output_shape(inputs.shape, VECTOR)
        runners["fp32", density] = bound(alone(inner, inputs.shape, result, 1), inputs.numpy())
        runners["int8", density] = bound(ours(pruned, tuple(images.shape)), images.numpy())
    times = {name: statistics.median(samples) for name, samples in measure(runners, seconds=seconds).items()}
    macs = conv.weight.numel() * output[2] * output[3] * batch
    for density in DENSITIES:
        mine = times["int8", density]
        yield {
            "layer": f"{channels}@{size}x{size} {kernel}x{kernel}/{stride}", "batch": batch, "density": density,
            "ms": round(mine, 4), "gmacs": round(1e-6 * macs * density / mine, 1),
            "fp32": round(times["fp32", density] / mine, 2), "qlinear": round(times["qlinear", 1.0] / mine, 2),
            "dense": round(times["dense", 1.0] / mine, 2),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "int8.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer and batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for layer in [*VGG16, *RESNET34]:
        for batch in options.batches:
            for row in rows(layer, batch, options.seconds):
                table.append(row)
                print(json.dumps(row), flush=True)
    result = {"machine": machine().to_json(), "path": int8_paths()[0], "threads": 1, "rows": table}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
