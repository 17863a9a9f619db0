"""The verbs on a run folder: convert, finetune, prune, report, export; and bench, for that and any other model.

Each returns a frozen dataclass with what it did; nothing here prints.  The only place where settings become objects.
"""

from hetcompress.pipeline._bench import Bench, BenchItem, Profile, bench
from hetcompress.pipeline._common import DataSettings, Pruned
from hetcompress.pipeline._convert import Converted, convert
from hetcompress.pipeline._demo import Demo, demo
from hetcompress.pipeline._export import ExportReport, export, planned_in
from hetcompress.pipeline._finetune import finetune
from hetcompress.pipeline._int8 import Int8Report, Int8Settings
from hetcompress.pipeline._lowered import lowered
from hetcompress.pipeline._prune import prune
from hetcompress.pipeline._report import LayerReport, Report, report
from hetcompress.pipeline._time import aimed_at
from hetcompress.planning import PlanSettings

__all__ = [
    "Bench",
    "BenchItem",
    "Profile",
    "Converted",
    "DataSettings",
    "Demo",
    "ExportReport",
    "Int8Report",
    "Int8Settings",
    "LayerReport",
    "PlanSettings",
    "Pruned",
    "Report",
    "aimed_at",
    "bench",
    "convert",
    "demo",
    "export",
    "finetune",
    "lowered",
    "planned_in",
    "prune",
    "report",
]
