"""Planning: which form each layer gets, by time measured on the machine and runtime that will run it."""

from hetcompress.planning.measured import Measured
from hetcompress.planning.whole import PLANS, Plan, PlanSettings, plan

__all__ = ["PLANS", "Measured", "Plan", "PlanSettings", "plan"]
