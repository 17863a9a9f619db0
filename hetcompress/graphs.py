"""Models as graphs: torch's traced program, the ONNX bytes made from it, and the session that runs those.

The dense original and the compact model go through the very same code, so that sizes and times compare.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.errors import HetCompressError, InputError, first_line
from hetcompress.memory import frugal
from hetcompress.version import __version__

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from hetcompress.onnx_forms import Placed

__all__ = ["ONNX_OPSET", "evaluating", "onnx_bytes", "ort_session", "quiet", "readable", "trace"]

ONNX_OPSET = 20
"""Of every file written: what torch's exporter emits without conversion, and onnxruntime runs since 1.17."""

LARGE = 2**16
"""Bytes of a tensor whose values say nothing of the graph's shapes."""

LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights in one file: protobuf ends at 2 GiB, and the graph itself takes some."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings, log lines and prints of libraries; errors stay exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode without gradients, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn whatever a library raises about a broken file into an `InputError` that names the file."""
    try:
        yield
    except HetCompressError:
        raise
    except Exception as error:  # noqa: BLE001  the readers' exceptions have no base class in common
        missing = "is not a registered function/op" in str(error)
        fix = (
            "build our library, python -m hetcompress.kernels, or export with --no-kernels"
            if missing
            else "export it again"
        )
        raise InputError(
            f"file {path}", expected="a model that can be opened", found=first_line(error), fix=fix
        ) from None


def trace(model: nn.Module, example: Float[Tensor, "n c h w"]) -> torch.export.ExportedProgram:
    """Trace a model in eval mode with a free batch size.

    Args:
        model: Takes one tensor and returns one; on the CPU.
        example: A batch of any size; only its shape and type matter.

    Raises:
        HetCompressError: torch cannot trace the model, or its graph holds for one batch size only.
    """
    # a batch of 1 would be traced as the constant 1
    pair = torch.zeros((2, *example.shape[1:]), dtype=example.dtype)
    batch = torch.export.Dim("batch")
    try:
        with quiet(), evaluating(model):
            return torch.export.export(model, (pair,), dynamic_shapes=({0: batch},), strict=False)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise HetCompressError(
            f"model {type(model).__name__}",
            expected="one that torch.export can trace with a free batch size",
            found=first_line(error),
            fix="look for code in its forward that depends on values or on the batch size",
        ) from error


def onnx_bytes(model: nn.Module, example: Float[Tensor, "n c h w"]) -> bytes:
    """Return a model as one checked ONNX file with input "input", output "logits" and a free batch size.

    Stack traces, notes of the exporter and shapes of intermediate values, which `onnx.shape_inference` finds again,
    are left out: they tell of the machine and can outweigh the weights of a compact model.

    Args:
        model: Takes one tensor and returns one; on the CPU.
        example: A batch of any size; only its shape and type matter.

    Raises:
        InputError: The weights do not fit one file.
        HetCompressError: The model cannot be traced or has an operator that ONNX lacks.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if weights > LARGEST_ONNX:
        raise InputError(
            f"model {type(model).__name__}",
            expected=f"at most {LARGEST_ONNX / 1e9:.3g} GB of weights, as ONNX takes in one file",
            found=f"{weights / 1e9:.3g} GB",
            fix="export it as pt2 or safetensors",
        )
    from hetcompress.onnx_forms import opaque

    with evaluating(model):
        shallow, forms = opaque(model, torch.zeros((2, *example.shape[1:]), dtype=example.dtype))
    return _serialized(_onnx_program(shallow, example), forms)


def _onnx_program(model: nn.Module, example: Tensor) -> torch.onnx.ONNXProgram:
    program = trace(model, example)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=ONNX_OPSET,
                input_names=["input"],
                output_names=["logits"],
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise HetCompressError(
            f"model {type(model).__name__}",
            expected="operators that ONNX has",
            found=first_line(error),
            fix="export it as pt2",
        ) from error
    assert exported is not None
    return exported


@frugal()
def _serialized(program: torch.onnx.ONNXProgram, forms: Placed) -> bytes:
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    from hetcompress.kernels.fusion import fuse
    from hetcompress.kernels.onnx_export import say_what_is_needed_
    from hetcompress.onnx_forms import put_in_place
    from hetcompress.onnx_writing import serialised_

    ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    for value in program.model.graph.initializers.values():
        value.const_value = None  # the exporter's rewrite rules keep the last graph, and with it the model's weights
    graph = proto.graph
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("metadata_props")  # which the pass leaves on values
        value.ClearField("doc_string")
    _name_batch_(graph)
    put_in_place(proto, forms)
    fuse(proto)
    onnx.helper.set_model_props(proto, {"hetcompress": __version__})
    say_what_is_needed_(proto)
    _check(proto)
    return serialised_(proto)


def _name_batch_(graph: onnx.GraphProto) -> None:
    """Call the input's free size, to which tracing has given a number, "batch", there and where outputs have it."""
    values = [*graph.input, *graph.output]
    sizes = [size for value in values for size in value.type.tensor_type.shape.dim]
    traced = {size.dim_param for size in graph.input[0].type.tensor_type.shape.dim[:1]} - {""}
    for size in sizes:
        if size.dim_param in traced:
            size.dim_param = "batch"


def _check(model: onnx.ModelProto) -> None:
    """Let ONNX check the large weights one by one, and the graph without them: checking copies what it is given."""
    import onnx

    graph = model.graph
    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions,
        graph=onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output),
    )  # fmt: skip
    for tensor in graph.initializer:
        if tensor.ByteSize() < LARGE:
            light.graph.initializer.append(tensor)
        else:
            onnx.checker.check_tensor(tensor)
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(light, full_check=True)


def ort_session(
    source: Path | str | bytes,
    threads: int | None = None,
    *,
    optimised: Path | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open an ONNX model in onnxruntime on the CPU, fully optimised, its operators one after another.

    Args:
        source: A file, or its bytes.
        threads: Threads inside an operator; None leaves it to onnxruntime (one for each core).
        optimised: Where to write the graph that really runs on this processor; None writes none.
        profile: How the name of a profile begins, which ``end_profiling`` writes; None makes none.

    Raises:
        InputError: It is no model that onnxruntime can open.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # idle workers of one session would spin on the cores of the next: measured in turns with a second session, two
    # threads on two cores, that made runs 1.4x slower than alone; without spinning, in turns equals alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ready, missing = kernels.available()
    if ready:  # the file may have its operator
        kernels.register(options)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    name = "of bytes" if isinstance(source, bytes) else source
    with readable(name):
        data = source if isinstance(source, bytes) else str(source)
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if ready or f"{kernels.DOMAIN}:{kernels.OPERATOR}" not in str(error):
                raise
            raise InputError(f"file {name}", expected="the library that runs its operators", found=missing) from None
