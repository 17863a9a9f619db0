"""Data sets: batches of augmented training images and plain test images."""

from hetcompress.data import cifar, digits, image_folder  # noqa: F401  each enters itself into DATA_SOURCES
from hetcompress.data.augmentation import Augmentation
from hetcompress.data.base import DATA_SOURCES, DataSource, open_data

__all__ = ["DATA_SOURCES", "Augmentation", "DataSource", "open_data"]
