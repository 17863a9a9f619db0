"""The runtimes that a plan can be made for: each prepares a form to be timed."""

from __future__ import annotations

import abc
import copy
import importlib.metadata
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from hetcompress.errors import UsageError
from hetcompress.graphs import ONNX_OPSET, ort_session
from hetcompress.kernels import fuse_torch
from hetcompress.nn.lowered import Chain
from hetcompress.registry import Registry

__all__ = ["PLAN_TARGETS", "PlanTarget"]


class PlanTarget(abc.ABC):
    """A runtime on a device."""

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """What timings depend on besides the machine."""

    @abc.abstractmethod
    def runner(self, form: Chain, images: Tensor, threads: int) -> Callable[[], object]:
        """Return what runs a form once on these images."""


PLAN_TARGETS: Registry[type[PlanTarget]] = Registry("plan target")


@PLAN_TARGETS.register("ort-cpu")
class OrtCpu(PlanTarget):
    """onnxruntime on the CPU."""

    name = "ort-cpu"

    @property
    def version(self) -> str:
        """See `PlanTarget.version`."""
        return f"onnxruntime {importlib.metadata.version('onnxruntime')}"

    def runner(self, form: Chain, images: Tensor, threads: int) -> Callable[[], object]:
        """See `PlanTarget.runner`."""
        from hetcompress.onnx_forms import form_model

        session = ort_session(form_model(form, images.shape[1], ONNX_OPSET).SerializeToString(), threads)
        feed = {"input": images.numpy()}
        return lambda: session.run(None, feed)


class _Torch(PlanTarget):
    """Eager torch, channels-last."""

    device: ClassVar[str]

    @property
    def version(self) -> str:
        """See `PlanTarget.version`."""
        return f"torch {torch.__version__}"

    def runner(self, form: Chain, images: Tensor, threads: int) -> Callable[[], object]:
        """See `PlanTarget.runner`."""
        model = self.fitted(copy.deepcopy(form).eval(), images)
        model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        moved = images.to(self.device, memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode():
                model(moved)
            self.wait()

        torch.set_num_threads(threads)
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
