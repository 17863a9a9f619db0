"""The project's own kernel: a convolution over kept vectors of V filters x one input channel x one tap.

Written in C++ and compiled when the package is installed, if there is a compiler; `available` says whether it was.
"""

from hetcompress.kernels.build import BuildError, build, library_path
from hetcompress.kernels.library import Geometry, available, best_path, best_vector, paths, run
from hetcompress.kernels.module import VectorBlockConv2d
from hetcompress.kernels.onnx_export import DOMAIN, OPERATOR, attributes, register
from hetcompress.kernels.packing import blocked, pack, planar, unpack
from hetcompress.kernels.pooling import POOL_OPERATOR, Pooling, pool, pool_attributes
from hetcompress.kernels.torch_fusion import Fused, fuse_torch
from hetcompress.kernels.torch_operator import NAME, vector_block_conv2d

__all__ = [
    "DOMAIN",
    "NAME",
    "OPERATOR",
    "POOL_OPERATOR",
    "BuildError",
    "Fused",
    "Geometry",
    "Pooling",
    "VectorBlockConv2d",
    "attributes",
    "available",
    "best_path",
    "best_vector",
    "blocked",
    "build",
    "fuse_torch",
    "library_path",
    "pack",
    "paths",
    "planar",
    "pool",
    "pool_attributes",
    "register",
    "run",
    "unpack",
    "vector_block_conv2d",
]
