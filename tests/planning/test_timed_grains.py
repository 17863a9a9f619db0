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
from hetcompress.planning import PlanSettings, choose_granularities, measured, runtimes
from hetcompress.planning.granularity import density_at_half_time
from hetcompress.planning.measured import Measured
from hetcompress.planning.runtimes import PLAN_TARGETS

EXAMPLE = torch.zeros(1, 3, 12, 12)
SETTINGS = PlanSettings(plan="fast")


def net(middle=None):
    """Two layers that are alike but for their weights, which `middle` replaces in the first of them, and one more."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 48, 3)
    alike = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)]
    if middle is not None:
        alike[0].weight.data = middle
    return nn.Sequential(first, nn.ReLU(), alike[0], nn.ReLU(), alike[1], nn.ReLU(), last).eval()


def pretending(monkeypatch, of):
    """Let forms take what is said of their granularity, the dense one 1 and all others 9, and their neighbours 5."""

    def medians(runners, **_):
        told = {"dense": 1.0} | of
        return {name: 5 + (0 if name.startswith("alone") else told.get(name.split(",")[0], 9.0)) for name in runners}

    monkeypatch.setattr(measured, "_medians", medians)


@pytest.mark.parametrize(
    ("slow", "expected"),
    [
        ((), "vector8"),
        (("vector8",), "vector"),
        (("vector8", "vector"), "sets"),
        (("vector8", "vector", "sets"), "channels"),
        (("vector8", "vector", "sets", "channels"), "whole"),
        (tuple(GRANULARITIES), "vector8"),
    ],
)
def test_the_finest_granularity_where_others_are_no_faster(weighing, monkeypatch, slow, expected):  # noqa: F811
    pretending(monkeypatch, {name: 9.0 if name in slow else 0.4 for name in GRANULARITIES})
    dense = net()
    chosen = choose_granularities(dense, ["2", "6"], EXAMPLE, SETTINGS)
    assert {name: found.granularity for name, found in chosen.items()} == {"2": expected, "6": expected}
    assert chosen["6"].times == pytest.approx(
        {"dense": 1.0} | {name: 9.0 if name in slow else 0.4 for name in GRANULARITIES}
    ), "what neighbours take is taken off"
    assert set(chosen["6"].kept) == set(GRANULARITIES) - set(slow)
    assert chosen["6"].grain.to_json() == GRANULARITIES[expected](dense[6]).to_json()


@pytest.mark.parametrize(("coarse", "expected"), [(0.38, "vector8"), (0.05, "whole")])
def test_a_coarse_granularity_must_be_much_faster(weighing, monkeypatch, coarse, expected):  # noqa: F811
    pretending(monkeypatch, {"vector8": 0.4, "whole": coarse})
    found = choose_granularities(net(), ["2"], EXAMPLE, SETTINGS)["2"]
    assert found.granularity == expected
    assert set(found.kept) == {"vector8", "whole"}


def test_layers_that_are_timed_alike_are_chosen_by_their_own_weights(weighing, monkeypatch):  # noqa: F811
    """Four channels of the first layer hold all there is, which fine shapes keep as well; the second is all alike."""
    pretending(monkeypatch, {"vector8": 0.45, "whole": 0.2})
    few = 1e-3 * torch.randn(32, 32, 3, 3)
    few[:, :4] = 1
    found = choose_granularities(net(few), ["2", "4"], EXAMPLE, SETTINGS)
    assert {name: one.granularity for name, one in found.items()} == {"2": "vector8", "4": "whole"}
    assert found["2"].times == found["4"].times
    assert min(found["2"].kept.values()) > 0.999
    assert 0.3 < found["4"].kept["vector8"] < found["4"].kept["whole"] - 0.05


def test_what_is_slow_is_not_taken_where_little_is_kept(weighing, monkeypatch):  # noqa: F811
    pretending(monkeypatch, {"channels": 0.4, "whole": 0.4})
    found = choose_granularities(net(torch.zeros(32, 32, 3, 3)), ["2"], EXAMPLE, SETTINGS)["2"]
    assert (found.granularity, found.kept) == ("channels", {"channels": 0.0, "whole": 0.0})


@pytest.mark.parametrize(("time", "reached"), [(0.45, True), (0.6, False)])
def test_blocks_too_large_for_the_density_do_not_reach_it(weighing, monkeypatch, time, reached):  # noqa: F811
    """Of eight channels, blocks of four keep half at least: timed there, and 0.375 would be half of the time at 0.6."""
    pretending(monkeypatch, {"whole": time})
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 32, 3)).eval()
    found = choose_granularities(dense, ["2"], EXAMPLE, SETTINGS)["2"]
    assert ("whole" in found.kept) is reached
    assert found.granularity == "whole", "the fastest in any case"


def test_where_none_reaches_half_of_the_time_the_fastest_is_taken(weighing, monkeypatch):  # noqa: F811
    pretending(monkeypatch, {"vector8": 0.95, "vector": 0.94, "sets": 0.9, "channels": 0.8, "whole": 0.85})
    found = choose_granularities(net(), ["2"], EXAMPLE, SETTINGS)["2"]
    assert (found.granularity, found.kept) == ("channels", {})


def test_the_density_at_half_of_the_time():
    assert density_at_half_time(2.0, 0.25, 4.0) == pytest.approx(0.25), "where it was timed"
    assert density_at_half_time(1.0, 0.25, 4.0) == pytest.approx(0.5), "time is the density"
    assert density_at_half_time(2.0, 0.4, 4.0) == pytest.approx(0.4)
    assert density_at_half_time(0.0, 0.25, 4.0) == pytest.approx(0.625)
    assert density_at_half_time(2.6, 0.25, 4.0) is None, "a density below 0"
    assert density_at_half_time(4.0, 0.25, 4.0) is None
    assert density_at_half_time(5.0, 0.25, 4.0) is None
    assert density_at_half_time(0.0, 0.25, 0.0) is None


def test_times_that_noise_hides_are_measured_again(weighing, monkeypatch):  # noqa: F811
    convs = {"dense": nn.Conv2d(32, 48, 3), "small": nn.Conv2d(32, 48, 1)}
    chooser = Measured(PLAN_TARGETS["ort-cpu"](), batch=1, threads=1)
    monkeypatch.setattr(measured, "_medians", lambda runners, **_: dict.fromkeys(runners, 1.0))
    assert chooser.own_times(convs, (32, 9, 9), {}) == {"dense": 0.0, "small": 0.0}
    pretending(monkeypatch, {"small": 0.5})
    assert chooser.own_times(convs, (32, 9, 9), {}) == pytest.approx({"dense": 1.0, "small": 0.5})


def test_the_times_of_neighbours_are_taken_off(weighing):  # noqa: F811
    """Where a weight takes a millisecond, a form takes its weights, whatever stands beside it."""
    convs = {
        "dense": nn.Conv2d(32, 48, 3, stride=2),
        "small": nn.Conv2d(32, 48, (1, 3), stride=2),
        "ours": VectorBlockConv2d.from_pruned(nn.Conv2d(32, 48, 3, stride=2), 16),
    }
    chooser = Measured(PLAN_TARGETS["ort-cpu"](), batch=1, threads=1)
    times = chooser.own_times(convs, (32, 9, 9), {"ours": 16})
    assert times == {name: pytest.approx(conv_weights(conv)) for name, conv in convs.items()}
    assert times == chooser.own_times(convs, (32, 9, 9), {"ours": 16}), "remembered"
    between = chooser.times(convs, (32, 9, 9))
    assert between["dense"] == pytest.approx(times["dense"] + 16 * (32 + 48))


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
