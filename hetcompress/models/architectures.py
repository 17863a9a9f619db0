"""Architectures by name: our own, torchvision's, timm's, or a factory in a user's file or module."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hetcompress.errors import UsageError
from hetcompress.models.base import MODELS, InputSpec
from hetcompress.registry import suggestion

__all__ = ["Architecture", "input_spec_of", "parse_architecture"]

IMAGENET = InputSpec((3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OTHER_SIZES = {"inception_v3": 299}
"""torchvision's classification nets that were not trained on 224 pixels."""

RANDOM = ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_")
"""Functions, of tensors and of `torch.nn.init`, that fill a tensor and return it."""

SOURCES = ("hetcompress", "torchvision", "timm")
"""Of factories that are not the user's own."""

FORMS = "hetcompress:NAME, torchvision:NAME, timm:NAME, path/file.py:factory or pkg.mod:factory"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What builds a model: a spec as `--arch` takes it, and keyword arguments.

    Attributes:
        spec: For example "torchvision:resnet34".
        arguments: Keyword arguments of the factory, plain JSON values.
    """

    spec: str
    arguments: dict[str, Any]

    def build(self) -> nn.Module:
        """Build the model with its own initialisation, in eval mode.

        Raises:
            UsageError: The factory does not exist, does not take the arguments, fails, or returns no model.
        """
        factory = _factory(self.spec)
        try:
            model = factory(**self.arguments)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  a user's factory may raise anything
            place = "" if self.spec.rpartition(":")[0] in SOURCES else _place(error, factory)
            raise UsageError(
                f"--arch {self.spec}", expected="a factory that builds a model",
                found=f"{type(error).__name__}: {error}{place}",
                fix="mend that line, or check --arch-arg" if place else f"check --arch and --arch-arg{_taken(factory)}",
            ) from None  # fmt: skip
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"--arch {self.spec}",
                expected="a factory of an nn.Module",
                found=type(model).__name__,
                fix="name a function or class that returns one",
            )
        return model.eval()

    def build_meta(self) -> nn.Module:
        """Build the model on the meta device: names and shapes without memory.

        A net that looks at numbers while it is built, such as torchvision's RegNet, is built as ever.
        """
        try:
            with torch.device("meta"), _Unfilled():
                return self.build()
        except UsageError:
            return self.build()

    def skeleton(self) -> nn.Module:
        """Build what `hetcompress.models.filling.fill_` gives its weights.

        Our own and torchvision's nets are built on the meta device: all they compute with is in their state dict.  That
        is not known of others; they are built as ever.
        """
        return self.build_meta() if self.spec.startswith(("hetcompress:", "torchvision:")) else self.build()


def _place(error: Exception, factory: Callable[..., nn.Module]) -> str:
    """Return the last line of the factory's own file that led to an error, in words: one that the user can mend."""
    code = getattr(inspect.unwrap(factory), "__code__", None) or getattr(factory.__init__, "__code__", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _taken(factory: Callable[..., nn.Module]) -> str:
    """Return the names of a factory's arguments in words, or nothing where it hands on whatever it is given."""
    parameters = inspect.signature(factory).parameters.values()
    if not parameters or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return ""
    return f": it takes {', '.join(parameter.name for parameter in parameters)}"


class _Unfilled(TorchFunctionMode):
    """Leaves out random numbers: on the meta device they fill nothing, and torch loads its compiler to draw them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM:
            return args[0] if args else arguments["tensor"]
        return func(*args, **arguments)


def parse_architecture(spec: str, arguments: Mapping[str, Any] | None = None) -> Architecture:
    """Check a spec and return it as an architecture.

    Raises:
        UsageError: The spec has no known form, or its name is unknown.
    """
    prefix, sign, _ = spec.partition(":")
    if not sign or not prefix:
        readings = [f"hetcompress:{spec}"] if spec in MODELS else []
        readings += [f"torchvision:{spec}"] if spec in _torchvision_names() else []
        fix = f"write {' or '.join(readings)}" if readings else "put the source before the name"
        raise UsageError(f"--arch {spec}", expected=FORMS, found="no source", fix=fix)
    _factory(spec)
    return Architecture(spec, dict(arguments or {}))


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _factory(spec: str) -> Callable[..., nn.Module]:
    prefix, _, name = spec.rpartition(":")
    if prefix == "hetcompress":
        return MODELS[name].build
    if prefix == "torchvision":
        return _torchvision_factory(name)
    if prefix == "timm":
        return _timm_factory(name)
    return _user_factory(prefix, name)


def _torchvision_factory(name: str) -> Callable[..., nn.Module]:
    import torchvision

    known = _torchvision_names()
    if name not in known:
        raise UsageError(f"--arch torchvision:{name}", found="no such model", fix=suggestion(name, known))

    def build(**arguments: Any) -> nn.Module:
        if name in ("googlenet", "inception_v3"):
            arguments = {"init_weights": False, **arguments}
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
        return model

    return build


def _timm_factory(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ImportError:
        raise UsageError(
            f"--arch timm:{name}", expected="timm", found="it is not installed", fix="pip install timm"
        ) from None
    if not timm.is_model(name):
        raise UsageError(f"--arch timm:{name}", found="no such model", fix=suggestion(name, timm.list_models()))

    def build(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        return model

    return build


def _user_factory(place: str, name: str) -> Callable[..., nn.Module]:
    where = f"--arch {place}:{name}"
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else _module_of_name(place)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  a user's module may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        line = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
        raise UsageError(
            where,
            expected="code that can be imported",
            found=f"{type(error).__name__}: {error}{line}",
            fix="mend that line",
        ) from None
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        raise UsageError(where, expected=f"a factory '{name}'", found="none", fix=suggestion(name, own or [FORMS]))
    return factory  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"--arch {path}", expected="a Python file", found="no such file", fix="check the path")
    spec = importlib.util.spec_from_file_location(f"_hetcompress_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _module_of_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not name.startswith(error.name):
            raise
        raise UsageError(
            f"--arch {name}",
            expected=FORMS,
            found=f"no module named '{error.name}'",
            fix="install it, or run where it can be imported",
        ) from None


def input_spec_of(architecture: Architecture, model: nn.Module) -> InputSpec | None:
    """Return the images a known architecture was made for; None for a user's own."""
    prefix, _, name = architecture.spec.rpartition(":")
    if prefix == "hetcompress":
        spec = MODELS[name].input_spec
        channels = int(architecture.arguments.get("in_channels", spec.size[0]))
        return spec if channels == spec.size[0] else None
    if prefix == "torchvision":
        size = OTHER_SIZES.get(name, IMAGENET.size[1])
        return InputSpec((3, size, size), IMAGENET.mean, IMAGENET.std)
    config = getattr(model, "pretrained_cfg", None)
    if prefix == "timm" and config:
        channels, height, width = (int(n) for n in config["input_size"])
        return InputSpec((channels, height, width), tuple(config["mean"]), tuple(config["std"]))
    return None
