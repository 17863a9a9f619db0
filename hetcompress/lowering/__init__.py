"""Lowering: pruned convolutions become the same function made of smaller dense operators."""

from hetcompress.lowering import (  # noqa: F401  each enters itself into LOWERINGS
    crop,
    dense,
    filter_split,
    pointwise_plus,
    shape_sum,
    tap_gemm,
    vector_block,
)
from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.choice import ORDER, Lowered, LoweredLayer, lower
from hetcompress.lowering.choosers import Choice, Chooser, FewestMacs, Preferring, cheapest
from hetcompress.lowering.folding import fold_batch_norms

__all__ = [
    "LOWERINGS",
    "ORDER",
    "Choice",
    "Chooser",
    "FewestMacs",
    "Lowered",
    "LoweredLayer",
    "Lowering",
    "Preferring",
    "Verdict",
    "cheapest",
    "fold_batch_norms",
    "lower",
]
