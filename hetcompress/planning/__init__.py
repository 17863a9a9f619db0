"""Planning: which form each layer gets, by time measured on the machine and runtime that will run it."""

from hetcompress.planning.aiming import Aim, TimeRatio, aim, time_ratio
from hetcompress.planning.automatic import plan, settled
from hetcompress.planning.granularity import TimedGrain, choose_granularities
from hetcompress.planning.measured import Measured
from hetcompress.planning.prices import layer_prices
from hetcompress.planning.whole import DEFAULT, FEWEST_MACS, PLANS, Plan, PlanSettings

__all__ = [
    "DEFAULT",
    "FEWEST_MACS",
    "PLANS",
    "Aim",
    "Measured",
    "Plan",
    "PlanSettings",
    "TimeRatio",
    "TimedGrain",
    "aim",
    "choose_granularities",
    "layer_prices",
    "plan",
    "settled",
    "time_ratio",
]
