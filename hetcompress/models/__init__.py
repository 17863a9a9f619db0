"""Networks: our own, the known ones, a user's, and the checkpoints that hold their weights."""

from hetcompress.models import digits_net, resnet_cifar, vgg_cifar  # noqa: F401  each enters its nets into MODELS
from hetcompress.models.architectures import Architecture, input_spec_of, parse_architecture
from hetcompress.models.base import MODELS, InputSpec, ZooModel
from hetcompress.models.checkpoints import read_state_dict
from hetcompress.models.identification import identify
from hetcompress.models.loading import LoadedModel, load_model

__all__ = [
    "MODELS",
    "Architecture",
    "InputSpec",
    "LoadedModel",
    "ZooModel",
    "identify",
    "input_spec_of",
    "load_model",
    "parse_architecture",
    "read_state_dict",
]
