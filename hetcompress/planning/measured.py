"""The chooser that measures: the form that is fastest on this machine, in the runtime that will run it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from hetcompress.latency import measure, random_images, torch_threads
from hetcompress.lowering import Chooser, Survey, cheapest, conv_weights, is_crumbled
from hetcompress.nn import HetConv2d
from hetcompress.planning.runtimes import PlanTarget
from hetcompress.planning.surroundings import OUTER_CHANNELS, in_surroundings
from hetcompress.planning.timings import Timings

__all__ = ["OURS", "Measured"]

OURS = "vector-block"
HOPELESS = 1.5
"""A form that took this much longer than the quickest in a first look is not measured closely."""


class Measured(Chooser):
    """The quickest form.

    Args:
        target: The runtime.
        batch: Images at once.
        threads: Threads inside an operator.
        seconds: Time to spend on measuring each candidate of a layer.
        within: Stock forms of more than so many times their fewest MACs are not timed, the dense one excepted.
    """

    unit = "ms"
    least_saving = 0.03
    """Share of the simpler form's time that a more involved one must save: less drowns in noise."""

    def __init__(
        self, target: PlanTarget, *, batch: int, threads: int, seconds: float = 0.1, within: float = math.inf
    ) -> None:
        self.target, self.batch, self.threads, self.seconds, self.within = target, batch, threads, seconds, within
        self.timings = Timings(f"{target.name} {target.version}")

    def costs(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> dict[str, float]:
        """See `Chooser.costs`."""
        macs = {name: conv_weights(form) for name, form in candidates.items()}
        # our kernel is no measure for stock operators: what they would be planned with is looked at beside it
        limit = self.within * min(weights for name, weights in macs.items() if name != OURS)
        always = ("dense", OURS)
        promising = {name: form for name, form in candidates.items() if name in always or macs[name] <= limit}
        return self.times(promising, input_shape) if len(promising) > 1 else {"dense": 0.0}

    def hopeless(self, layer: HetConv2d, rule: str) -> str:
        """See `Chooser.hopeless`."""
        return "too many small convolutions to pay" if rule == "filter-split" and is_crumbled(layer) else ""

    def best(self, costs: Mapping[str, float]) -> str:
        """See `Chooser.best`."""
        return cheapest(costs, self.least_saving)

    def recall(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...]) -> Survey | None:
        """See `Chooser.recall`."""
        return self.timings.surveys.get(self._key(layer, rules, input_shape))

    def remember(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...], survey: Survey) -> None:
        """See `Chooser.remember`."""
        self.timings.add_survey(self._key(layer, rules, input_shape), survey)

    def _key(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...]) -> str:
        groups = layer.channel_groups
        return Timings.key(layer, input_shape, self.batch, self.threads, groups, tuple(rules), self.within)

    def times(
        self,
        forms: Mapping[str, nn.Module],
        input_shape: tuple[int, ...],
        hopeless: float = HOPELESS,
        *,
        anew: bool = False,
    ) -> dict[str, float]:
        """Return milliseconds of each form between its neighbours, measured now or before.

        Args:
            forms: Of one layer; all make as many channels.
            input_shape: Channels, height, width of what it reads.
            hopeless: Forms that take so many times the quickest are not measured closely.
            anew: Measure now, whatever is known.
        """
        # times of one layer are compared, so they are kept together: all are of the same rounds
        key = Timings.key(nn.ModuleList(forms.values()), input_shape, self.batch, self.threads, tuple(forms), hopeless)
        if anew or key not in self.timings.known:
            filters = _output(forms, input_shape)[0]
            chains = {name: in_surroundings(form, input_shape[0], filters) for name, form in forms.items()}
            sized = {name: (chain, input_shape[1:]) for name, chain in chains.items()}
            self.timings.add(key, self._measure(sized, hopeless))
        return dict(self.timings.known[key])

    def own_times(
        self, forms: Mapping[str, nn.Module], input_shape: tuple[int, ...], vectors: Mapping[str, int]
    ) -> dict[str, float]:
        """Return milliseconds of each form without its neighbours, measured now or before; 0 where noise hides it.

        Args:
            forms: Of one layer, "dense" among them; all make as many channels.
            input_shape: Channels, height, width of what it reads.
            vectors: Filters of a vector of our kernel, for forms that stand between layers that it executes.
        """
        others = ("own", tuple(forms), *vectors.items())
        key = Timings.key(nn.ModuleList(forms.values()), input_shape, self.batch, self.threads, *others)
        if key in self.timings.known:
            return dict(self.timings.known[key])
        shapes = (input_shape, _output(forms, input_shape))
        channels, filters = (shape[0] for shape in shapes)
        chains = {
            name: (in_surroundings(form, channels, filters, vectors.get(name)), input_shape[1:])
            for name, form in forms.items()
        }
        alone = {vector: _neighbours_alone(shapes, vector) for vector in {None, *vectors.values()}}
        pairs = {name: chain for chains_alone in alone.values() for name, chain in chains_alone.items()}
        found = self._measure(chains | pairs, HOPELESS, beside="dense")
        spent = {vector: statistics.mean(found[name] for name in names) for vector, names in alone.items()}
        times = {name: max(0.0, found[name] - spent[vectors.get(name)]) for name in forms}
        if all(times.values()):  # else it was a busy moment
            self.timings.add(key, times)
        return times

    def _measure(
        self, chains: Mapping[str, tuple[nn.Module, tuple[int, ...]]], hopeless: float, beside: str | None = None
    ) -> dict[str, float]:
        """Return milliseconds of chains, each with the height and width of its images.

        Args:
            chains: What to time.
            hopeless: Those that take so many times the quickest are not measured closely.
            beside: The chain to take in place of the quickest.
        """
        runners: dict[str, Callable[[], object]] = {
            name: self.target.runner(chain, random_images(self.batch, (OUTER_CHANNELS, *size)), self.threads)
            for name, (chain, size) in chains.items()
        }
        with torch_threads(self.threads):
            times = _medians(runners, seconds=0, rounds=3)
            limit = hopeless * (min(times.values()) if beside is None else times[beside])
            close = {name: run for name, run in runners.items() if times[name] <= limit}
            return times | (_medians(close, seconds=self.seconds * len(close), rounds=9) if len(close) > 1 else {})


def _medians(runners: Mapping[str, Callable[[], object]], *, seconds: float, rounds: int) -> dict[str, float]:
    samples = measure(runners, seconds=seconds, warmup=1, min_rounds=rounds)
    return {name: statistics.median(times) for name, times in samples.items()}


def _neighbours_alone(
    shapes: Sequence[tuple[int, ...]], vector: int | None
) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return the neighbours of a layer without it, both on its near and both on its far side.

    A layer stands between one of either pair.  That one is taken to be half of what both take: the two have as many
    weights, and as much to reorder.

    Args:
        shapes: Of what the layer reads, and of what it makes.
        vector: Filters of a vector of our kernel where that executes them, else None.
    """
    return {
        f"alone, {vector}, {side}": (in_surroundings(None, shape[0], shape[0], vector), shape[1:])
        for side, shape in zip(("before", "after"), shapes, strict=True)
    }


def _output(forms: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return channels, height and width of what each of the forms makes."""
    with torch.no_grad():
        return tuple(next(iter(forms.values()))(torch.zeros(1, *input_shape)).shape[1:])
