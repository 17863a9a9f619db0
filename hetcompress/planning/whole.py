"""A plan for a whole model: a form for each layer, and the whole timed against the dense model.

Layers that are faster between their neighbours can be slower together.  So the assembled model is timed against the
dense one; if it is not faster, the layers that gained least are left dense, and in the end all of them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hetcompress.activity import working
from hetcompress.comparisons import SAME, Comparison
from hetcompress.errors import UsageError
from hetcompress.kernels import available
from hetcompress.lowering import ORDER, Chooser, Lowered, LoweredLayer, Preferring, Tidy, fold_batch_norms, lower, tidy
from hetcompress.nn import HetConv2d
from hetcompress.planning.measured import OURS, Measured
from hetcompress.planning.runtimes import PLAN_TARGETS, Reference
from hetcompress.planning.timings import Decided, Timings
from hetcompress.registry import suggestion
from hetcompress.surgery import named_modules_of

__all__ = ["DEFAULT", "FEWEST_MACS", "PLANS", "Plan", "PlanSettings", "settled_plan"]

PLANS = {
    "measured": "the form that is fastest on this machine; dense where none is faster",
    "fast": "as measured, among the dense form and those with at most 1.5 times the fewest MACs, and in shorter looks",
    "macs": "the form with the fewest MACs, however long it takes",
}
PROMISING = 1.5
"""Times the fewest MACs; a form beyond rarely wins, and the dense one, which often does, is always timed."""
SHORT_LOOK = 0.03
"""Seconds for each form of a fast plan."""


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How forms are chosen.

    Attributes:
        plan: One of `PLANS`.
        target: The runtime, one of `PLAN_TARGETS`.
        batch: Images at once.
        threads: Threads inside an operator.
        kernels: Whether the project's own kernel may be used; None leaves that to measurements.
    """

    plan: str = "measured"
    target: str = "ort-cpu"
    batch: int = 1
    threads: int = 1
    kernels: bool | None = False

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise UsageError(
                "--plan", expected=f"one of {', '.join(PLANS)}", found=f"'{self.plan}'",
                fix=suggestion(self.plan, list(PLANS)),
            )  # fmt: skip
        PLAN_TARGETS[self.target]  # refuses a name that is none

    def require_runtime(self) -> PlanSettings:
        """Return these settings, if this machine can plan with them; they may have been written down on another one.

        Raises:
            UsageError: The device is not here, or not the library of our kernel.
        """
        PLAN_TARGETS[self.target]()
        ready, reason = available()
        if self.kernels and not ready:
            raise UsageError(
                "--kernels",
                expected="the compiled library",
                found=reason,
                fix="do what is said there, or pass --no-kernels",
            )
        return self

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlanSettings:
        """Return what a summary or a plan in JSON was made with; what else it holds is left."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def __str__(self) -> str:
        how = f" on {self.target}, batch {self.batch}, threads {self.threads}" if self.plan != "macs" else ""
        forms = {True: ", our kernel among the forms", None: ", our kernel where it pays"}
        return f"{self.plan}{how}{forms.get(self.kernels, '')}"

    @property
    def rules(self) -> tuple[str, ...]:
        """Return the lowerings to choose from."""
        if not self.kernels:
            return ORDER
        place = ORDER.index("tap-gemm")  # simpler than that one, whose taps it executes in place
        return (*ORDER[:place], OURS, *ORDER[place:])

    def chooser(self) -> Chooser | None:
        """Return what picks the forms; None for the fewest MACs."""
        if self.plan == "macs":
            return None
        target = PLAN_TARGETS[self.target]()
        if self.plan == "fast":
            return Measured(target, batch=self.batch, threads=self.threads, seconds=SHORT_LOOK, within=PROMISING)
        return Measured(target, batch=self.batch, threads=self.threads)


DEFAULT = PlanSettings(plan="fast", kernels=None)
"""Of what is exported, and of targets of time."""
FEWEST_MACS = PlanSettings(plan="macs")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A lowered model and why it looks as it does.

    Attributes:
        lowered: The model and the form of each layer.
        settings: How forms were chosen.
        whole: The lowered model against the dense one; None if nothing was measured, or nothing is left but that one.
        note: What was given up last and why; empty if nothing was.
        untouched: The model has all of its channels, since it was slower without those that nothing reads.
    """

    lowered: Lowered
    settings: PlanSettings
    whole: Comparison | None
    note: str
    untouched: bool = False

    def summary(self) -> dict[str, Any]:
        """Return how forms were chosen, how often each was taken, and what was given up."""
        forms = dict(Counter(layer.form for layer in self.lowered.layers).most_common())
        return {**dataclasses.asdict(self.settings), "forms": forms, "note": self.note}

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **dataclasses.asdict(self.settings),
            "whole": None if self.whole is None else self.whole.to_json(),
            "note": self.note,
            "layers": [dataclasses.asdict(layer) for layer in self.lowered.layers],
        }


def settled_plan(dense: nn.Module, pruned: nn.Module, example: Tensor, settings: PlanSettings) -> Plan:
    """Choose a form for each pruned layer, our kernel's among them where the settings say so and not where they do not.

    Args:
        dense: What the result must beat, in eval mode.
        pruned: With `HetConv2d` layers; left alone.
        example: Its shape is that of the images.
        settings: How to choose.

    Raises:
        UsageError: The runtime is not there.
        VerificationError: A form computes something else than its layer.
    """
    chooser = settings.require_runtime().chooser()
    if not isinstance(chooser, Measured):
        return Plan(lower(pruned, example, rules=settings.rules), settings, None, "")
    ready = tidy(pruned, example)
    key = _key(dense, ready, example, settings)
    decided = chooser.timings.plans.get(key)
    if decided is not None and decided.untouched:
        return Plan(_untouched(pruned, example), settings, decided.whole, decided.note, untouched=True)
    if decided is not None:
        lowered = lower(ready, example, rules=settings.rules, chooser=chooser, known=decided.layers)
        if all(layer.form == decided.layers[layer.name].form for layer in lowered.layers):
            return Plan(lowered, settings, decided.whole, decided.note)
        ready = tidy(pruned, example)
    against = Against(dense, example, settings)
    planned = _timed(against, pruned, ready, example, settings, chooser)
    if against.steady:  # else it was a busy minute, and the next may decide otherwise
        layers = {layer.name: layer for layer in planned.lowered.layers}
        chooser.timings.add_plan(key, Decided(layers, planned.whole, planned.note, planned.untouched))
    chooser.timings.save()
    return planned


def _key(dense: nn.Module, ready: Tidy, example: Tensor, settings: PlanSettings) -> str:
    """Return what a plan depends on: the structure of both models, and what each pruned layer reads."""
    images = tuple(example.shape[1:])
    groups = {name: layer.channel_groups for name, layer in named_modules_of(ready.model, HetConv2d).items()}
    others = (settings, ready.shapes, ready.weights, groups)
    return "".join(
        Timings.key(model, images, settings.batch, settings.threads, *others) for model in (dense, ready.model)
    )


def _timed(
    against: Against, pruned: nn.Module, ready: Tidy, example: Tensor, settings: PlanSettings, chooser: Measured
) -> Plan:
    """Choose by the times of layers, then of the whole."""
    lowered = lower(ready, example, rules=settings.rules, chooser=chooser)
    chooser.timings.save()
    wholes = [lowered]
    if any(OURS in layer.costs and layer.form != OURS for layer in lowered.layers):
        # side by side, kernels spare each other the reorders that each pays between other operators
        runs = Preferring(OURS, chooser)
        wholes.append(lower(pruned, example, rules=settings.rules, chooser=runs))
    wholes = [whole for whole in wholes if whole.smaller]
    if not wholes:
        return Plan(lowered, settings, None, "no layer is smaller or faster in another form than dense")
    timed = [(against(whole.model), whole) for whole in wholes]
    compared, best = max(timed, key=lambda pair: pair[0].ratio)
    note, left = "", dict[str, str]()
    while compared.ratio < 1 + SAME and _changed(best):
        kept = sorted(_changed(best), key=lambda layer: -layer.gain)[: len(_changed(best)) // 2]
        note = (
            f"layers in other forms than dense: {len(_changed(best))}; with them the whole takes "
            f"{compared.compact.median_ms:.3g} ms against {compared.dense.median_ms:.3g} ms dense, so those that "
            "gained least are left dense"
        )
        left |= {layer.name: "the whole was not faster" for layer in _changed(best) if layer not in kept}
        best = lower(pruned, example, rules=settings.rules, chooser=chooser, dense=left)
        compared = against(best.model) if best.smaller else compared
    slower = compared.ratio_high < 1 or compared.ratio < 1 - SAME / 2
    if best.smaller and not _changed(best) and slower:
        note = (
            "no layer gains in another form, and without the filters that nothing reads the whole is not as "
            f"fast as dense ({compared.ratio:.3g} times), so it is left as it was"
        )
        return Plan(_untouched(pruned, example), settings, None, note, untouched=True)
    if best.smaller and compared.ratio_high <= 1 + SAME:
        note = (
            "no layer gains in another form, and without the filters that nothing reads the whole is no "
            f"faster than dense ({compared.ratio:.3g} times as fast)"
        )
    elif best.smaller and compared.verdict != "faster":
        note = (
            f"the machine is busy: the whole is {compared.ratio:.3g} times as fast as dense, but between "
            f"{compared.ratio_low:.3g} and {compared.ratio_high:.3g} in 90 % of the rounds; measure again when it is "
            "quiet"
        )
    return Plan(best, settings, compared if best.smaller else None, note)


def _untouched(pruned: nn.Module, example: Tensor) -> Lowered:
    """Return the model with all of its channels, every layer dense."""
    return lower(tidy(pruned, example, channels=False), example, rules=("dense",))


def _changed(lowered: Lowered) -> list[LoweredLayer]:
    return [layer for layer in lowered.layers if layer.form != "dense"]


class Against:
    """Times models against the dense one, its batch norms folded, in the runtime of a plan.

    Args:
        dense: What they must beat.
        example: Its shape is that of the images.
        settings: The runtime.
    """

    def __init__(self, dense: nn.Module, example: Tensor, settings: PlanSettings) -> None:
        self.target, self.dense, self.example, self.settings = PLAN_TARGETS[settings.target](), dense, example, settings
        self.reference: Reference | None = None
        self.steady = True
        """Whether all that was timed had an interval that says something."""

    def __call__(self, compact: nn.Module) -> Comparison:
        """Time a model."""
        settings = self.settings
        working("timing the whole model against dense")
        if self.reference is None:
            self.reference = self.target.reference(fold_batch_norms(self.dense, self.example), self.example)
        found = self.target.against(
            self.reference, compact, self.example, batch=settings.batch, threads=settings.threads
        )
        self.steady = self.steady and found.steady
        return found
