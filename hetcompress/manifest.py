"""What run.json must hold, so that a damaged one is named when it is opened and not met later as a `KeyError`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["faults"]

Check = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _group(value: Any) -> bool:
    return value == "all" or _count(value)


def _grain(value: Any) -> bool:
    checks = {"family": _text, "family_arguments": _mapping, "group_out": _group, "group_in": _group}
    return _mapping(value) and all(check(value.get(key)) for key, check in checks.items())


def _three(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) == 3 and all(check(item) for item in value)


def _some(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(check(item) for item in value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


FIELDS: dict[tuple[str, ...], tuple[Check, str]] = {
    ("source", "bytes"): (_count, "a number of bytes"),
    ("architecture", "spec"): (_text, "a text"),
    ("architecture", "arguments"): (_mapping, "an object"),
    ("input", "size"): (_three(_count), "three positive integers"),
    ("input", "mean"): (_some(_number), "a list of numbers"),
    ("input", "std"): (_some(_positive), "a list of positive numbers"),
    ("conversion", "layers"): (
        lambda value: _mapping(value) and len(value) > 0 and all(_grain(grain) for grain in value.values()),
        "family, family_arguments, group_out and group_in by layer",
    ),
    ("stages",): (
        lambda value: _mapping(value) and all(_mapping(stage) for stage in value.values()),
        "objects by name",
    ),
}


def _accuracies(stages: dict[str, Any]) -> Iterator[str]:
    for stage, recorded in stages.items():
        found = recorded.get("accuracies", {})
        fine = _mapping(found) and all(
            _mapping(one) and _count(one.get("total")) and _number(one.get("correct")) for one in found.values()
        )
        if not fine:
            yield f"stages.{stage}.accuracies is no object of correct and total by name"


def faults(manifest: dict[str, Any]) -> list[str]:
    """Return what is missing in the contents of run.json or of another type, in words."""
    found = []
    for place, (check, expected) in FIELDS.items():
        value: Any = manifest
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if not check(value):
            found.append(f"{'.'.join(place)} is {'missing' if value is None else f'not {expected}'}")
    if not found:
        channels = manifest["input"]["size"][0]
        found += [
            f"input.{name} is not {channels} numbers, one for each channel"
            for name in ("mean", "std")
            if len(manifest["input"][name]) != channels
        ]
        found += _accuracies(manifest["stages"])
    return found
