"""The five verbs on a run folder: convert, finetune, prune, report, export.

Each returns a frozen dataclass with what it did; nothing here prints.  The only place where settings become objects.
"""

from hetcompress.pipeline._common import DataSettings, Pruned
from hetcompress.pipeline._convert import Converted, convert, plan
from hetcompress.pipeline._demo import Demo, demo
from hetcompress.pipeline._export import ExportReport, export
from hetcompress.pipeline._finetune import DEFAULT_MAC_RATIO, finetune
from hetcompress.pipeline._prune import prune
from hetcompress.pipeline._report import LayerReport, Report, report

__all__ = [
    "DEFAULT_MAC_RATIO",
    "Converted",
    "DataSettings",
    "Demo",
    "ExportReport",
    "LayerReport",
    "Pruned",
    "Report",
    "convert",
    "demo",
    "export",
    "finetune",
    "plan",
    "prune",
    "report",
]
