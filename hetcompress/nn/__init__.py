"""Convolutions whose kernels have shapes, and the modules that lowerings build from."""

from hetcompress.nn.groups import BLOCK, ChannelGroups, GroupSize
from hetcompress.nn.het_conv import HetConv2d, LearnableHetConv2d, conv_arguments

__all__ = ["BLOCK", "ChannelGroups", "GroupSize", "HetConv2d", "LearnableHetConv2d", "conv_arguments"]
