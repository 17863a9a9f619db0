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
from hetcompress.lowering.choice import ORDER, Lowered, LoweredLayer, Tidy, forms_of, input_shapes, lower, tidy
from hetcompress.lowering.choosers import Chooser, FewestMacs, Preferring, Survey, cheapest
from hetcompress.lowering.filter_split import is_crumbled
from hetcompress.lowering.folding import fold_batch_norms
from hetcompress.lowering.pieces import conv_weights
from hetcompress.lowering.vector_block import vector_of

__all__ = [
    "LOWERINGS",
    "ORDER",
    "Chooser",
    "FewestMacs",
    "Lowered",
    "LoweredLayer",
    "Lowering",
    "Preferring",
    "Survey",
    "Tidy",
    "Verdict",
    "cheapest",
    "conv_weights",
    "fold_batch_norms",
    "forms_of",
    "input_shapes",
    "is_crumbled",
    "lower",
    "tidy",
    "vector_of",
]
