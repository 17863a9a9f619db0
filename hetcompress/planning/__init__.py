"""Planning: which form each layer gets, by time measured on the machine and runtime that will run it."""

from hetcompress.planning.measured import Measured
from hetcompress.planning.whole import FEWEST_MACS, PLANS, Plan, PlanSettings, plan

__all__ = ["FEWEST_MACS", "PLANS", "Measured", "Plan", "PlanSettings", "plan"]
