"""Granularity by measured time: what layers take without their neighbours, and what is kept at half of that."""

import onnx
import pytest
import torch
from pretending import weighing  # noqa: F401  a fixture
from torch import nn

from hetcompress import kernels
from hetcompress.granularity import GRANULARITIES
from hetcompress.kernels import VectorBlockConv2d
from hetcompress.lowering import conv_weights
from hetcompress.planning import PlanSettings, choose_granularities, granularity, measured, runtimes
from hetcompress.planning.granularity import density_at_half_time
from hetcompress.planning.measured import Measured
from hetcompress.planning.runtimes import PLAN_TARGETS

EXAMPLE = torch.zeros(1, 3, 12, 12)
SETTINGS = PlanSettings(plan="fast")


def net(middle_weights=None):
    torch.manual_seed(0)
    first, middle, last = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 48, 3)
    if middle_weights is not None:
        middle.weight.data = middle_weights
    return nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last).eval()


def pretending(monkeypatch, of):
    """Let forms take what is said of their granularity, the dense one 1 and all others 9; neighbours take nothing."""

    def medians(runners, **_):
        told = {"dense": 1.0} | of
        return {name: 0.0 if name.startswith("alone") else told.get(name.split(",")[0], 9.0) for name in runners}

    monkeypatch.setattr(measured, "_medians", medians)


@pytest.mark.parametrize(
    ("slow", "expected"),
    [
        ((), "vector8"),
        (("vector8",), "vector"),
        (("vector8", "vector", "sets"), "channels"),
        (("vector8", "vector", "sets", "channels"), "whole"),
        (tuple(GRANULARITIES), "vector8"),
    ],
)
def test_the_finest_granularity_where_others_are_no_faster(weighing, monkeypatch, slow, expected):  # noqa: F811
    pretending(monkeypatch, {name: 9.0 if name in slow else 0.4 for name in GRANULARITIES})
    dense = net()
    chosen = choose_granularities(dense, ["2", "4"], EXAMPLE, SETTINGS)
    assert {name: found.granularity for name, found in chosen.items()} == {"2": expected, "4": expected}
    assert set(chosen["4"].times) == {*GRANULARITIES, "dense"}
    assert set(chosen["4"].kept) == set(GRANULARITIES) - set(slow)
    assert chosen["4"].grain.to_json() == GRANULARITIES[expected](dense[4]).to_json()


@pytest.mark.parametrize(("coarse", "expected"), [(0.38, "vector8"), (0.05, "whole")])
def test_a_coarse_granularity_must_be_much_faster(weighing, monkeypatch, coarse, expected):  # noqa: F811
    pretending(monkeypatch, {"vector8": 0.4, "whole": coarse})
    found = choose_granularities(net(), ["2"], EXAMPLE, SETTINGS)["2"]
    assert found.granularity == expected
    assert set(found.kept) == {"vector8", "whole"}


def test_layers_that_are_timed_alike_are_chosen_by_their_own_weights(weighing, monkeypatch):  # noqa: F811
    """In one layer four channels hold all there is, and whole kernels lose nothing; in the other all weigh alike."""
    pretending(monkeypatch, {"vector8": 0.45, "whole": 0.35})
    few = 1e-3 * torch.randn(32, 32, 3, 3)
    few[:, :4] = 1
    found = [choose_granularities(net(weights), ["2"], EXAMPLE, SETTINGS)["2"] for weights in (few, None)]
    assert [one.granularity for one in found] == ["vector8", "vector8"]
    assert found[0].kept["whole"] > 0.999 > found[1].kept["whole"] + 0.3
    monkeypatch.setattr(granularity, "SLACK", 1e-9)
    assert found[0].times == choose_granularities(net(few), ["2"], EXAMPLE, SETTINGS)["2"].times


def test_where_none_reaches_half_of_the_time_the_fastest_is_taken(weighing, monkeypatch):  # noqa: F811
    pretending(monkeypatch, {"vector8": 0.95, "vector": 0.94, "sets": 0.9, "channels": 0.8, "whole": 0.85})
    found = choose_granularities(net(), ["2"], EXAMPLE, SETTINGS)["2"]
    assert (found.granularity, found.kept) == ("channels", {})


def test_the_density_at_half_of_the_time():
    assert density_at_half_time(2.0, 4.0) == pytest.approx(0.25), "where it was timed"
    assert density_at_half_time(1.0, 4.0) == pytest.approx(0.5), "time is the density"
    assert density_at_half_time(0.0, 4.0) == pytest.approx(0.625)
    assert density_at_half_time(2.6, 4.0) is None, "a density below 0"
    assert density_at_half_time(4.0, 4.0) is None
    assert density_at_half_time(5.0, 4.0) is None
    assert density_at_half_time(0.0, 0.0) is None


def test_the_times_of_neighbours_are_taken_off(weighing):  # noqa: F811
    """Where a weight takes a millisecond, a form takes its weights, whatever stands beside it."""
    convs = {
        "stock": nn.Conv2d(32, 48, 3, stride=2),
        "small": nn.Conv2d(32, 48, (1, 3), stride=2),
        "ours": VectorBlockConv2d.from_pruned(nn.Conv2d(32, 48, 3, stride=2), 16),
    }
    chooser = Measured(PLAN_TARGETS["ort-cpu"](), batch=1, threads=1)
    times = chooser.own_times(convs, (32, 9, 9), {"ours": 16})
    assert times == {name: pytest.approx(conv_weights(conv)) for name, conv in convs.items()}
    assert times == chooser.own_times(convs, (32, 9, 9), {"ours": 16}), "remembered"
    between = chooser.times(convs, (32, 9, 9))
    assert between["stock"] == pytest.approx(times["stock"] + 16 * (32 + 48))


@pytest.mark.usefixtures("library")
def test_our_kernel_is_timed_between_layers_that_spare_it_reorders(monkeypatch, tmp_path):
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path))
    graphs = []

    def opened(serialised, threads):
        graphs.append(onnx.load_from_string(serialised).graph)
        return session(serialised, threads)

    session = runtimes.ort_session
    monkeypatch.setattr(runtimes, "ort_session", opened)
    conv = nn.Conv2d(32, 48, 3, padding=1)
    forms = {"dense": conv, "ours": VectorBlockConv2d.from_pruned(conv, 8)}
    times = Measured(PLAN_TARGETS["ort-cpu"](), batch=1, threads=1, seconds=0).own_times(forms, (32, 9, 9), {"ours": 8})
    assert set(times) == set(forms)
    assert all(time >= 0 for time in times.values())
    layouts = []
    for graph in graphs:
        ours = [node for node in graph.node if node.op_type == kernels.OPERATOR]
        told = [{attribute.name: attribute.i for attribute in node.attribute} for node in ours]
        layouts.append([(one["layout_in"], one["layout_out"]) for one in told])
        assert len(ours) in (0, len(graph.node)), "one kind of operator, ReLUs among ours"
    assert sorted(layouts) == sorted([[], [(0, 1), (1, 1), (1, 0)], [], [], [(0, 1), (1, 0)], [(0, 1), (1, 0)]])
