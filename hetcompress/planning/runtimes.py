"""The runtimes that a plan can be made for: each prepares a form to be timed."""

from __future__ import annotations

import abc
import copy
import importlib.metadata
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.comparisons import Comparison
from hetcompress.errors import UsageError
from hetcompress.graphs import ONNX_OPSET, onnx_bytes, ort_session
from hetcompress.kernels import fuse_torch
from hetcompress.latency import compare, compare_latency, random_images, torch_threads
from hetcompress.registry import Registry

__all__ = ["PLAN_TARGETS", "PlanTarget"]


WHOLE_SECONDS = 1.0
"""For timing a whole model against the dense one, at least."""
WHOLE_ROUNDS = 9
"""The same, however slow they are."""


Reference = nn.Module | bytes


class PlanTarget(abc.ABC):
    """A runtime on a device."""

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """What timings depend on besides the machine."""

    @abc.abstractmethod
    def runner(self, form: nn.Module, images: Tensor, threads: int) -> Callable[[], object]:
        """Return what runs a form, or a whole model, once on these images."""

    def reference(self, dense: nn.Module, example: Float[Tensor, "n c h w"]) -> Reference:  # noqa: ARG002
        """Return a dense model as `against` takes it: what need not be done for each model that is compared with it."""
        return dense

    @abc.abstractmethod
    def against(
        self, dense: Reference, compact: nn.Module, example: Float[Tensor, "n c h w"], *, batch: int, threads: int
    ) -> Comparison:
        """Time a whole model against the dense one.

        Args:
            dense: What the other must beat, see `reference`.
            compact: The other.
            example: Its shape is that of the images.
            batch: Images at once.
            threads: Threads inside an operator.
        """


PLAN_TARGETS: Registry[type[PlanTarget]] = Registry("--target")


@PLAN_TARGETS.register("ort-cpu")
class OrtCpu(PlanTarget):
    """onnxruntime on the CPU."""

    name = "ort-cpu"

    @property
    def version(self) -> str:
        """See `PlanTarget.version`."""
        return f"onnxruntime {importlib.metadata.version('onnxruntime')}"

    def runner(self, form: nn.Module, images: Tensor, threads: int) -> Callable[[], object]:
        """See `PlanTarget.runner`."""
        from hetcompress.kernels.fusion import fuse
        from hetcompress.onnx_forms import form_model

        model = form_model(form, images.shape[1], ONNX_OPSET)
        fuse(model)
        session = ort_session(model.SerializeToString(), threads)
        feed = {"input": images.numpy()}
        return lambda: session.run(None, feed)

    def reference(self, dense: nn.Module, example: Float[Tensor, "n c h w"]) -> Reference:
        """Return the bytes of its file."""
        return onnx_bytes(dense, example)

    def against(
        self, dense: Reference, compact: nn.Module, example: Float[Tensor, "n c h w"], *, batch: int, threads: int
    ) -> Comparison:
        """See `PlanTarget.against`."""
        return _on_cpu("onnxruntime", dense, compact, example, batch=batch, threads=threads)


class _Torch(PlanTarget):
    """Eager torch, channels-last."""

    device: ClassVar[str]

    @property
    def version(self) -> str:
        """See `PlanTarget.version`."""
        return f"torch {torch.__version__}"

    def runner(self, form: nn.Module, images: Tensor, threads: int) -> Callable[[], object]:  # noqa: ARG002
        """See `PlanTarget.runner`; torch has as many threads as it was given outside (`torch_threads`)."""
        model = self.fitted(copy.deepcopy(form).eval(), images)
        model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        moved = images.to(self.device, memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode():
                model(moved)
            self.wait()

        return run

    def fitted(self, form: nn.Module, images: Tensor) -> nn.Module:  # noqa: ARG002
        """Return a form as this runtime would run it in a whole model."""
        return form

    def wait(self) -> None:
        """Return when the device has done all that it was given."""


@PLAN_TARGETS.register("torch-cpu")
class TorchCpu(_Torch):
    """Eager torch on the CPU."""

    name = "torch-cpu"
    device = "cpu"

    def fitted(self, form: nn.Module, images: Tensor) -> nn.Module:
        """See `_Torch.fitted`."""
        return fuse_torch(form, images[:1]).model

    def against(
        self, dense: Reference, compact: nn.Module, example: Float[Tensor, "n c h w"], *, batch: int, threads: int
    ) -> Comparison:
        """See `PlanTarget.against`."""
        return _on_cpu("torch", dense, compact, example, batch=batch, threads=threads)


@PLAN_TARGETS.register("torch-cuda")
class TorchCuda(_Torch):
    """Eager torch on a CUDA device."""

    name = "torch-cuda"
    device = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise UsageError("--target torch-cuda", expected="a CUDA device", found="none", fix="choose ort-cpu")

    @property
    def version(self) -> str:
        """See `PlanTarget.version`."""
        return f"{super().version}, {torch.cuda.get_device_name()}"

    def wait(self) -> None:
        """See `_Torch.wait`."""
        torch.cuda.synchronize()

    def against(
        self, dense: Reference, compact: nn.Module, example: Float[Tensor, "n c h w"], *, batch: int, threads: int
    ) -> Comparison:
        """See `PlanTarget.against`."""
        images = random_images(batch, example.shape[1:])
        assert isinstance(dense, nn.Module)
        runners = [self.runner(model, images, threads) for model in (dense, compact)]
        with torch_threads(threads):
            return compare(
                *runners, batch=batch, threads=threads, runtime=self.name, seconds=WHOLE_SECONDS,
                min_rounds=WHOLE_ROUNDS,
            )  # fmt: skip


def _on_cpu(
    runtime: str, dense: Reference, compact: nn.Module, example: Tensor, *, batch: int, threads: int
) -> Comparison:
    return compare_latency(
        dense, compact, tuple(example.shape[1:]), batches=(batch,), threads=threads, runtimes=(runtime,),
        seconds=WHOLE_SECONDS, min_rounds=WHOLE_ROUNDS,
    )[0]  # fmt: skip
