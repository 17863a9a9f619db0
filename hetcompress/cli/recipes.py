"""``--recipe``: a file's values in place of the options' own defaults; what is given by hand wins."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional, Union, get_args, get_origin

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from hetcompress.errors import InputError, UsageError
from hetcompress.recipes import load_recipe
from hetcompress.registry import suggestion

__all__ = ["FromRecipe", "RecipeCommand", "recorded", "say_what_differs"]

BY_HAND = {
    "--recipe",
    "--run",
    "--force",
    "--resume",
    "--dry-run",
    "--json",
    "--quiet",
    "--verbose",
    "--trust-pickle",
    "--download",
    "--help",
}
"""What a file may not decide: where things lie, what is shown or replaced, whether code runs or data is fetched."""

TARGETS = ("density", "mac_ratio", "latency_ratio")
DISPLACED = {
    **{target: tuple(other for other in TARGETS if other != target) for target in TARGETS},
    **dict.fromkeys(("family_arg", "group_out", "group_in"), ("granularity",)),
    "arch": ("arch_arg",),
    "family": ("granularity", "family_arg"),
    "granularity": ("family", "family_arg", "group_out", "group_in"),
    "method": ("penalty", "calibration", "logit_lr"),
    "sched": ("milestone",),
    "stage": TARGETS,
}
"""What a recipe says no more when the user gives another option that excludes it."""

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _apply(context: Any, value: str | None) -> str | None:  # typer hands over its own, private class of context
    """Make a recipe's values the defaults of the options that are read after this one."""
    if value is None or context.resilient_parsing:
        return value
    options = _options(context)
    parameters = inspect.signature(_function(context), eval_str=True).parameters
    defaults: dict[str, Any] = {}
    for key, given in load_recipe(value).options[context.info_name or ""].items():
        where = f"recipe {value}, key {key}"
        if key not in options:
            by_hand = f"--{key}" in BY_HAND
            raise InputError(
                where, expected=f"an option of `hetcompress {context.info_name}`", found=f"'{key}'",
                fix="leave it out; it is given on the command line alone" if by_hand else suggestion(key, [*options]),
            )  # fmt: skip
        defaults[options[key]] = _checked(where, parameters[options[key]].annotation, given)
    context.default_map = defaults
    return value


def _options(context: Any) -> dict[str, str]:
    """Return the parameter of each long option that a recipe may give, by its name there."""
    return {
        option.removeprefix("--"): str(parameter.name)
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and not BY_HAND.intersection(parameter.opts)
    }


def _function(context: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = inspect.unwrap(context.command.callback)
    return function


def _checked(where: str, hint: Any, value: Any) -> Any:
    """Return a value as the command line's own parser takes it, after checking it against the option's annotation."""
    kind, info = get_args(hint)[:2]
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    bounds = (info.min, info.max) if isinstance(info, OptionInfo) else (None, None)
    if get_origin(kind) not in (list, tuple):
        return _one(where, kind, bounds, value)
    kinds = get_args(kind)
    if not isinstance(value, list) or (get_origin(kind) is tuple and len(value) != len(kinds)):
        count = f"{len(kinds)} values" if get_origin(kind) is tuple else "values"
        raise InputError(where, expected=f"a list of {count}", found=repr(value), fix="correct the file")
    return [_one(where, kinds[0], bounds, one) for one in value]


def _one(where: str, kind: type, bounds: tuple[float | None, float | None], value: Any) -> Any:
    wanted: type = kind if kind in KINDS else str  # paths are texts
    # a number may stand for a text ("group-out" is one or "all"), and a whole number for any
    fits = isinstance(value, wanted if wanted in (bool, int) else (wanted, int, float))
    least, most = bounds
    inside = fits and (least is None or value >= least) and (most is None or value <= most)
    if not inside or (isinstance(value, bool) and wanted is not bool):
        limits = [f"of at {word} {bound:g}" for word, bound in (("least", least), ("most", most)) if bound is not None]
        expected = " ".join([KINDS[wanted], *limits])
        raise InputError(where, expected=expected, found=repr(value), fix="correct the file")
    return str(value) if wanted is str else value


class RecipeCommand(TyperCommand):
    """A command with ``--recipe``: options by hand displace what excludes them; bad values are laid to the file."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        recipe = ctx.params.get("recipe")
        if recipe is None:
            return super().invoke(ctx)
        sources = {name: ctx.get_parameter_source(name).name for name in ctx.params}
        own = inspect.signature(_function(ctx)).parameters
        for name in (name for name, source in sources.items() if source == "COMMANDLINE"):
            excludes = ctx.params[name] != ctx.default_map.get(name) and (name != "stage" or ctx.params[name] == "fine")
            for other in DISPLACED.get(name, ()) if excludes else ():
                if sources.get(other) == "DEFAULT_MAP":
                    ctx.params[other], sources[other] = own[other].default, "DEFAULT"
        options = {parameter: key for key, parameter in _options(ctx).items()}
        told = {options[name]: ctx.params[name] for name, source in sources.items() if source == "DEFAULT_MAP"}
        try:
            return super().invoke(ctx)
        except UsageError as error:
            key = _to_blame(str(error), told)
            if key is None:
                raise
            raise InputError(f"recipe {recipe}, key {key}: {error}") from None


def _to_blame(message: str, told: Mapping[str, Any]) -> str | None:
    """Return the key of a recipe that an error speaks of, by its option or by its value."""
    by_option = (key for key in told if message.startswith((f"--{key}:", f"--{key} ")))
    by_value = (key for key, value in told.items() if isinstance(value, str) and f"'{value}'" in message)
    return next(by_option, next(by_value, None))


FromRecipe = Annotated[
    Optional[str],  # noqa: UP045  typer reads Optional[...] on every supported Python
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        is_eager=True,
        callback=_apply,
        help="Take options from a recipe (`hetcompress list recipes`) or a file; those given here win.",
    ),
]


def say_what_differs(recipe: str | None, run: Path) -> None:
    """Warn of a run that was not converted as the recipe says.

    Args:
        recipe: The recipe that the run is to be trained by.
        run: Its folder.
    """
    if recipe is None:
        return
    from hetcompress.artifacts import RunFolder
    from hetcompress.cli import console

    folder, read = RunFolder.open(run), load_recipe(recipe)
    settings = (folder.stage("convert") or {}).get("settings", {})
    arguments = folder.manifest["architecture"]["arguments"]
    used = _in_words({**settings, "arch": folder.manifest["architecture"]["spec"], "arch_arg": arguments})
    there = _in_words({key.replace("-", "_"): value for key, value in read.options["convert"].items()})
    if "arch" not in read.options["convert"]:  # then it is for any
        used["arch"] = there["arch"]
    differ = [f"{key} {value}, there {there[key]}" for key, value in used.items() if value != there[key]]
    if differ:
        console.warn(f"{run} was not converted as recipe {read.name} says: {'; '.join(differ)}")


def _in_words(given: Mapping[str, Any]) -> dict[str, str]:
    """Return what decides of options of `convert`, whether they are written as the command takes or keeps them."""
    from hetcompress.granularity import VECTORS, usual_groups

    family, granularity = given.get("family") or "free", given.get("granularity")
    usual = usual_groups(family)
    group_out, group_in = given.get("group_out") or usual[0], given.get("group_in") or usual[1]
    if granularity in VECTORS:
        group_out, granularity = VECTORS[granularity], None
    arguments = _listed(given.get("family_arguments") or given.get("family_arg"))
    shapes = granularity or " ".join(filter(None, [family, arguments, f"{group_out} x {group_in}"]))
    rest = {name: _listed(given.get(name)) or "none" for name in ("include", "exclude")}
    arch = " ".join(filter(None, [str(given.get("arch")), _listed(given.get("arch_arg"))]))
    return {"arch": arch, "shapes": shapes, **rest, "ema": str(bool(given.get("ema")))}


def _listed(values: Any) -> str:
    """Return a table or a list of ``name=value`` as one text."""
    pairs = [f"{name}={value}" for name, value in values.items()] if isinstance(values, Mapping) else values or []
    return ", ".join(sorted(map(str, pairs)))


def recorded(recipe: str | None) -> dict[str, str] | None:
    """Return what a run folder keeps of the recipe that was used."""
    return None if recipe is None else load_recipe(recipe).to_json()
