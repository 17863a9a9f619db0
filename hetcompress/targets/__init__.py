"""Export targets: files that run without hetcompress, each re-opened and compared before it gets its name."""

from hetcompress.targets.base import EXPORT_TARGETS, ExportTarget, Runner
from hetcompress.targets.exporting import Exported, export_model
from hetcompress.targets.onnx import OnnxTarget
from hetcompress.targets.pt2 import Pt2Target
from hetcompress.targets.safetensors import SafetensorsTarget
from hetcompress.targets.verification import Agreement, Truth, verify

__all__ = [
    "EXPORT_TARGETS",
    "Agreement",
    "ExportTarget",
    "Exported",
    "OnnxTarget",
    "Pt2Target",
    "Runner",
    "SafetensorsTarget",
    "Truth",
    "export_model",
    "verify",
]
