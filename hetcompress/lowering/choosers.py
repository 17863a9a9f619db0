"""The contract of a chooser, and the one that counts MACs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

from torch import nn

from hetcompress.lowering.pieces import conv_weights

__all__ = ["Choice", "Chooser", "FewestMacs", "Preferring", "cheapest"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which form a layer gets.

    Attributes:
        form: Name of the chosen lowering.
        costs: What the candidates cost, by name, in the chooser's unit; those left out were not worth a look.
    """

    form: str
    costs: dict[str, float]


class Chooser(abc.ABC):
    """Picks one of the forms that a layer can take."""

    unit: str
    """Of costs, for people."""

    @abc.abstractmethod
    def choose(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> Choice:
        """Pick a form.

        Args:
            candidates: Forms of one layer by lowering, the simplest first; "dense" is among them.
            input_shape: Channels, height, width of what the layer reads.
        """


class FewestMacs(Chooser):
    """The form with the fewest MACs; says nothing about time."""

    unit = "MACs a position"
    least_saving = 0.1
    """Share of the simpler form's MACs that a more involved one must save."""

    def choose(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> Choice:  # noqa: ARG002
        """See `Chooser.choose`."""
        costs = {name: float(conv_weights(form)) for name, form in candidates.items()}
        return Choice(cheapest(costs, self.least_saving), costs)


class Preferring(Chooser):
    """One form wherever it fits, whatever it costs there; another chooser's choice elsewhere.

    Args:
        form: The preferred lowering.
        otherwise: Chooses where it does not fit.
    """

    def __init__(self, form: str, otherwise: Chooser) -> None:
        self.form, self.otherwise, self.unit = form, otherwise, otherwise.unit

    def choose(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> Choice:
        """See `Chooser.choose`."""
        choice = self.otherwise.choose(candidates, input_shape)
        return Choice(self.form, choice.costs) if self.form in choice.costs else choice


def cheapest(costs: Mapping[str, float], least_saving: float) -> str:
    """Return the cheapest, where each must save a share of the cost of the simpler ones before it."""
    names = list(costs)
    best = names[0]
    for name in names[1:]:
        if costs[name] <= (1 - least_saving) * costs[best]:
            best = name
    return best
