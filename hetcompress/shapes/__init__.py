"""Kernel-shape families: which supports a kernel may have, and how learnable numbers choose among them."""

from hetcompress.shapes.base import SHAPE_FAMILIES, ShapeFamily, build_family
from hetcompress.shapes.centre import CentreShapes
from hetcompress.shapes.free import FreeShapes
from hetcompress.shapes.hetconv import HetConvShapes
from hetcompress.shapes.rigid import RigidShapes
from hetcompress.shapes.sets import SetShapes
from hetcompress.shapes.whole import WholeShapes

__all__ = [
    "SHAPE_FAMILIES",
    "CentreShapes",
    "FreeShapes",
    "HetConvShapes",
    "RigidShapes",
    "SetShapes",
    "ShapeFamily",
    "WholeShapes",
    "build_family",
]
