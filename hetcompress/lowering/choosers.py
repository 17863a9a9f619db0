"""The contract of a chooser, and the one that counts MACs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence

from torch import nn

from hetcompress.lowering.pieces import conv_weights
from hetcompress.nn import HetConv2d

__all__ = ["Chooser", "FewestMacs", "Preferring", "Survey", "cheapest"]


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of the forms of a layer.

    Attributes:
        costs: Of those that were worth a look, by lowering, the simplest first; "dense" is among them.
        refused: The others, and why.
    """

    costs: dict[str, float]
    refused: dict[str, str]


class Chooser(abc.ABC):
    """Picks one of the forms that a layer can take."""

    unit: str
    """Of costs, for people."""

    @abc.abstractmethod
    def costs(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> dict[str, float]:
        """Return what forms cost; those left out are not worth a look.

        Args:
            candidates: Forms of one layer by lowering, the simplest first; "dense" is among them.
            input_shape: Channels, height, width of what the layer reads.
        """

    def hopeless(self, layer: HetConv2d, rule: str) -> str:  # noqa: ARG002
        """Return why a form of a layer is not even worth building; empty where it may be."""
        return ""

    @abc.abstractmethod
    def best(self, costs: Mapping[str, float]) -> str:
        """Return the lowering to take, by the costs of all."""

    def recall(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...]) -> Survey | None:  # noqa: ARG002
        """Return what was found before of a layer with these shapes; its forms need not be built then.

        Args:
            layer: Its weights do not count.
            rules: The lowerings to choose from.
            input_shape: Channels, height, width of what it reads.
        """
        return None

    def remember(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...], survey: Survey) -> None:  # noqa: B027
        """Keep what `recall` shall return; a chooser that costs nothing keeps nothing."""


class FewestMacs(Chooser):
    """The form with the fewest MACs; says nothing about time."""

    unit = "MACs a position"
    least_saving = 0.1
    """Share of the simpler form's MACs that a more involved one must save."""

    def costs(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> dict[str, float]:  # noqa: ARG002
        """See `Chooser.costs`."""
        return {name: float(conv_weights(form)) for name, form in candidates.items()}

    def best(self, costs: Mapping[str, float]) -> str:
        """See `Chooser.best`."""
        return cheapest(costs, self.least_saving)


class Preferring(Chooser):
    """One form wherever it fits, whatever it costs there; another chooser's choice elsewhere.

    Args:
        form: The preferred lowering.
        otherwise: Chooses where it does not fit.
    """

    def __init__(self, form: str, otherwise: Chooser) -> None:
        self.form, self.otherwise, self.unit = form, otherwise, otherwise.unit

    def costs(self, candidates: Mapping[str, nn.Module], input_shape: tuple[int, ...]) -> dict[str, float]:
        """See `Chooser.costs`."""
        return self.otherwise.costs(candidates, input_shape)

    def hopeless(self, layer: HetConv2d, rule: str) -> str:
        """See `Chooser.hopeless`."""
        return self.otherwise.hopeless(layer, rule)

    def recall(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...]) -> Survey | None:
        """See `Chooser.recall`."""
        return self.otherwise.recall(layer, rules, input_shape)

    def remember(self, layer: HetConv2d, rules: Sequence[str], input_shape: tuple[int, ...], survey: Survey) -> None:
        """See `Chooser.remember`."""
        self.otherwise.remember(layer, rules, input_shape, survey)

    def best(self, costs: Mapping[str, float]) -> str:
        """See `Chooser.best`."""
        return self.form if self.form in costs else self.otherwise.best(costs)


def cheapest(costs: Mapping[str, float], least_saving: float) -> str:
    """Return the cheapest, where each must save a share of the cost of the simpler ones before it."""
    names = list(costs)
    best = names[0]
    for name in names[1:]:
        if costs[name] <= (1 - least_saving) * costs[best]:
            best = name
    return best
