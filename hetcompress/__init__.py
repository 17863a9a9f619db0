"""hetcompress makes trained convolutional networks smaller and really faster.

The Python interface is the same verbs as the command line's, on the same run folder::

    from pathlib import Path
    import hetcompress as hc

    hc.convert(Path("model.pt"))
    hc.finetune(data=hc.DataSettings("cifar10"))
    print(hc.report().mac_ratio_executed)
    hc.export(("onnx",))
    hc.bench(["dense", "lowered"])
    model = hc.lowered()

Names are resolved when they are first used, so that importing the package, and `hetcompress --help`, stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hetcompress.version import __version__

if TYPE_CHECKING:
    from hetcompress.goals import ShapeSettings as ShapeSettings
    from hetcompress.pipeline import Bench as Bench
    from hetcompress.pipeline import Converted as Converted
    from hetcompress.pipeline import DataSettings as DataSettings
    from hetcompress.pipeline import ExportReport as ExportReport
    from hetcompress.pipeline import Int8Settings as Int8Settings
    from hetcompress.pipeline import Pruned as Pruned
    from hetcompress.pipeline import Report as Report
    from hetcompress.pipeline import bench as bench
    from hetcompress.pipeline import convert as convert
    from hetcompress.pipeline import export as export
    from hetcompress.pipeline import finetune as finetune
    from hetcompress.pipeline import lowered as lowered
    from hetcompress.pipeline import prune as prune
    from hetcompress.pipeline import report as report
    from hetcompress.planning import PlanSettings as PlanSettings
    from hetcompress.training import TrainSettings as TrainSettings

_HOMES = {
    "convert": "pipeline",
    "finetune": "pipeline",
    "prune": "pipeline",
    "report": "pipeline",
    "export": "pipeline",
    "bench": "pipeline",
    "lowered": "pipeline",
    "DataSettings": "pipeline",
    "Converted": "pipeline",
    "Int8Settings": "pipeline",
    "Pruned": "pipeline",
    "Report": "pipeline",
    "Bench": "pipeline",
    "ExportReport": "pipeline",
    "PlanSettings": "planning",
    "ShapeSettings": "goals",
    "TrainSettings": "training",
}

__all__ = [
    "Bench",
    "Converted",
    "DataSettings",
    "ExportReport",
    "Int8Settings",
    "PlanSettings",
    "Pruned",
    "Report",
    "ShapeSettings",
    "TrainSettings",
    "__version__",
    "bench",
    "convert",
    "export",
    "finetune",
    "lowered",
    "prune",
    "report",
]


def __getattr__(name: str) -> Any:
    if name == "kernels":  # what an exported file may need to be opened
        return importlib.import_module("hetcompress.kernels")
    if name not in _HOMES:
        raise AttributeError(f"module 'hetcompress' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hetcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
