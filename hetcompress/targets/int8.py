"""int8 on top of an ONNX file: static quantisation by onnxruntime's quantiser.

    quantised = clip(round(value / scale) + zero)

* weights: int8, one scale for each output channel, zero = 0;
* activations: 8 bits, one scale and zero for each tensor, from its smallest and largest value on the calibration
  images; a ReLU disappears into that range.

The file holds QuantizeLinear/DequantizeLinear pairs around standard operators; the runtime fuses each pair and what is
between them into one int8 kernel (QLinearConv and its like), and `count_kernels` looks whether it has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hetcompress.errors import HetCompressError, first_line
from hetcompress.graphs import ort_session, quiet
from hetcompress.kernels.int8_onnx import INT8_OPERATOR
from hetcompress.kernels.onnx_export import OPERATOR, say_what_is_needed_
from hetcompress.machine import Machine
from hetcompress.version import __version__

__all__ = ["Kernels", "Layer", "Quantiser", "Scheme", "count_kernels", "scheme_for"]

VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INT8_CONVOLUTIONS, INT8_LINEAR = {"QLinearConv", INT8_OPERATOR}, {"QGemm", "QLinearMatMul"}
FP32_CONVOLUTIONS = {"Conv", "FusedConv", "NhwcFusedConv", OPERATOR}
FP32_LINEAR = {"Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The 8-bit types that suit a processor.

    Attributes:
        activations: "uint8" or "int8".
        weight_bits: 8, or 7 where sums of two products would overflow 16 bits.
    """

    activations: str
    weight_bits: int


def scheme_for(machine: Machine) -> Scheme:
    """Return what onnxruntime recommends for a processor.

    x86 multiplies uint8 by int8; without VNNI it adds pairs of products in 16 bits, which can overflow unless one bit
    of the weights is given up.  ARM multiplies int8 by int8.
    """
    flags = set(machine.flags)
    if "asimd" in flags:
        return Scheme("int8", 8)
    return Scheme("uint8", 7 if "avx2" in flags and not flags & VNNI else 8)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Operators of the graph that onnxruntime runs on this processor after its optimisations.

    Attributes:
        int8_convolutions: Convolutions in int8 kernels, our own among them.
        fp32_convolutions: Convolutions in fp32 kernels.
        int8_linear: Matrix products in int8 kernels.
        fp32_linear: Matrix products in fp32 kernels.
        conversions: Operators that only change between the two.
    """

    int8_convolutions: int
    fp32_convolutions: int
    int8_linear: int
    fp32_linear: int
    conversions: int


def count_kernels(path: Path) -> Kernels:
    """Look at what onnxruntime makes of a file here.

    Raises:
        InputError: It is no model that onnxruntime can open.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="hetcompress-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        ort_session(path, 1, optimised=optimised)
        counts = Counter(node.op_type for node in onnx.load(optimised).graph.node)
    kinds = (INT8_CONVOLUTIONS, FP32_CONVOLUTIONS, INT8_LINEAR, FP32_LINEAR, CONVERSIONS)
    return Kernels(*(sum(counts[name] for name in kind) for kind in kinds))


@dataclasses.dataclass(frozen=True)
class Layer:
    """An operator with weights.

    Attributes:
        node: Its name in the graph.
        name: Of its weight in the model, without ".weight".
        convolution: Whether it is one; else it is a matrix product.
    """

    node: str
    name: str
    convolution: bool


class Quantiser:
    """Quantises one ONNX file as often as needed, from one calibration.

    Args:
        source: An fp32 file.
        batches: Images in the form that the model takes, at least one batch.
        scheme: The 8-bit types.
        folder: An existing folder for temporary files.
        own_kernels: Whether convolutions with many zeros run in our own kernel.

    Attributes:
        layers: What can be quantised or left in fp32, in the order in which it runs.

    Raises:
        HetCompressError: onnxruntime's quantiser cannot deal with the model.
    """

    def __init__(
        self, source: Path, batches: Sequence[Tensor], scheme: Scheme, folder: Path, *, own_kernels: bool = False
    ) -> None:
        self._own_kernels = own_kernels
        self._source, self._scheme, self._model = source, scheme, folder / "preprocessed.onnx"
        with _failures(source), quiet():
            from onnxruntime.quantization.shape_inference import quant_pre_process

            # symbolic shapes serve transformers; the ordinary inference finds all that a CNN needs
            quant_pre_process(source, self._model, skip_symbolic_shape=True)
            self._ranges = self._calibrated(batches, folder)
            self.layers = self._layers()

    def _calibrated(self, batches: Sequence[Tensor], folder: Path) -> Any:
        from onnxruntime.quantization import create_calibrator

        augmented = str(folder / "augmented.onnx")
        calibrator = create_calibrator(self._model, _operators(), augmented_model_path=augmented)
        name = ort_session(self._model, 1).get_inputs()[0].name
        calibrator.collect_data(_reader(name, batches))
        return calibrator.compute_data()

    def _layers(self) -> tuple[Layer, ...]:
        import onnx

        nodes = [node for node in onnx.load(self._model).graph.node if node.op_type in LAYERS]
        return tuple(
            Layer(node.name, str(node.input[1]).removesuffix(".weight"), node.op_type.startswith("Conv"))
            for node in nodes
        )

    def write(self, path: Path, *, exclude: Collection[Layer] = (), only: Collection[Layer] = ()) -> None:
        """Write the quantised model.

        Args:
            path: The file to fill.
            exclude: Layers that stay fp32.
            only: Quantise these alone; empty for all.

        Raises:
            HetCompressError: onnxruntime's quantiser fails.
        """
        import onnx

        with _failures(self._source), quiet():
            from onnxruntime.quantization import QDQQuantizer, QuantType

            quantizer = QDQQuantizer(
                onnx.shape_inference.infer_shapes(onnx.load(self._model)),
                per_channel=True,
                reduce_range=self._scheme.weight_bits == 7,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8 if self._scheme.activations == "uint8" else QuantType.QInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=[layer.node for layer in only],
                nodes_to_exclude=[layer.node for layer in exclude],
                op_types_to_quantize=_operators(),
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(path))
            model = onnx.load(path)
        _shield(model.graph, {layer.node for layer in exclude})
        if self._own_kernels:
            from hetcompress.targets.int8_kernels import use_kernels

            use_kernels(model)
        model.graph.ClearField("value_info")
        model.ClearField("metadata_props")
        onnx.helper.set_model_props(model, {"hetcompress": __version__})
        say_what_is_needed_(model)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())


def _shield(graph: Any, names: Collection[str]) -> None:
    """Keep fp32 layers fp32 in onnxruntime, too.

    Since 1.21 it quantises a layer by itself, coarsely (one scale for all channels), where the input is dequantised
    and the output quantised, with at most a ReLU between.  A leaky ReLU of slope 1 is the identity, breaks that
    pattern, and is fused into the layer, so that it costs nothing.
    """
    import onnx

    for index, node in reversed([*enumerate(graph.node)]):
        if node.name in names:
            output, node.output[0] = node.output[0], f"{node.output[0]}_fp32"
            identity = onnx.helper.make_node("LeakyRelu", [node.output[0]], [output], f"{node.name}_fp32", alpha=1.0)
            graph.node.insert(index + 1, identity)


@contextlib.contextmanager
def _failures(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise  # a full disk
    except Exception as error:
        raise HetCompressError(
            f"int8 of {source}",
            expected="a model that onnxruntime's quantiser takes",
            found=first_line(error),
            fix="export it without --int8",
        ) from error


def _operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _reader(name: str, batches: Sequence[Tensor]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.batches, None)
            return None if images is None else {name: images.numpy()}

    return Reader()
