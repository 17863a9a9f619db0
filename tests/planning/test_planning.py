"""Plans: timed on the runtime, remembered, and given up where the whole does not gain."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from hetcompress import latency
from hetcompress.comparisons import Comparison, Latency
from hetcompress.errors import UsageError
from hetcompress.lowering import LOWERINGS, ORDER, FewestMacs, Survey, fold_batch_norms, is_crumbled, lower
from hetcompress.nn import HetConv2d
from hetcompress.planning import PLANS, Measured, PlanSettings, measured, plan, runtimes, timings, whole
from hetcompress.planning.runtimes import PLAN_TARGETS, PlanTarget, TorchCuda
from hetcompress.planning.surroundings import in_surroundings
from hetcompress.planning.timings import Timings

SETTINGS = PlanSettings()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Pretended(PlanTarget):
    """Every form takes as long as it has weights; counts how often it is asked."""

    name = "pretended"
    version = "1"

    def __init__(self, monkeypatch):
        self.asked = 0
        monkeypatch.setattr(measured, "_medians", lambda runners, **_: {name: run() for name, run in runners.items()})

    def runner(self, form, images, threads):
        self.asked += 1
        weights = sum(parameter.numel() for parameter in form.parameters())
        return lambda: float(weights)

    def against(self, dense, compact, example, *, batch, threads):
        raise NotImplementedError


def layer(seed=0):
    """Half of the channels have the centre alone."""
    torch.manual_seed(seed)
    shapes = torch.ones(1, 32, 3, 3, dtype=torch.bool)
    shapes[:, ::2] = False
    shapes[:, :, 1, 1] = True
    return HetConv2d.from_conv2d(nn.Conv2d(32, 16, 3, padding=1), shapes, "all", 1)


def forms(of):
    rules = {name: LOWERINGS[name]() for name in ORDER}
    return {name: rule.rewrite(of) for name, rule in rules.items() if rule.check(of).ok}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), layer()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


def dense_of(net):
    dense = Net()
    dense.load_state_dict({k: v for k, v in net.state_dict().items() if "kernel_shapes" not in k}, strict=False)
    dense.second = nn.Conv2d(32, 16, 3, padding=1)
    return fold_batch_norms(dense, torch.zeros(1, 3, 12, 12))


def test_the_quickest_form_wins_and_is_remembered(monkeypatch, cache):
    target = Pretended(monkeypatch)
    chooser = Measured(target, batch=2, threads=1)
    costs = chooser.costs(forms(layer()), (32, 9, 9))
    assert chooser.best(costs) == "pointwise-plus"
    assert costs["pointwise-plus"] < costs["dense"]
    chooser.timings.save()
    asked = target.asked
    assert Measured(target, batch=2, threads=1).costs(forms(layer(seed=1)), (32, 9, 9)) == costs
    assert target.asked == asked, "other weights of the same structure are not timed again"
    Measured(target, batch=4, threads=1).costs(forms(layer()), (32, 9, 9))
    assert target.asked > asked
    for file in cache.iterdir():
        file.write_text("{broken")
    assert Measured(target, batch=2, threads=1).costs(forms(layer()), (32, 9, 9)) == costs


def test_times_of_one_instruction_set_are_not_those_of_another(monkeypatch):
    kernels = [(True, "avx512"), (True, "avx2"), (False, "the library is not built")]
    files = set()
    for kernel in kernels:
        monkeypatch.setattr(timings, "available", lambda kernel=kernel: kernel)
        monkeypatch.setattr(timings, "best_path", lambda kernel=kernel: kernel[1])
        files |= {Timings("runtime").path, Timings("runtime").path}
    assert len(files) == len(kernels)


def test_times_depend_on_structure_only():
    one, other = forms(layer()), forms(layer(seed=5))
    for name, form in one.items():
        assert Timings.key(form, (32, 9, 9), 1, 1) == Timings.key(other[name], (32, 9, 9), 1, 1)
        assert Timings.key(form, (32, 9, 9), 1, 1) != Timings.key(form, (32, 9, 9), 1, 2)
    shifted = layer()
    shifted.kernel_shapes.copy_(shifted.kernel_shapes.roll(1, 1))
    assert Timings.key(forms(shifted)["pointwise-plus"], (32, 9, 9), 1, 1) != Timings.key(
        one["pointwise-plus"], (32, 9, 9), 1, 1
    ), "which channels are gathered counts"


@pytest.mark.parametrize("name", ["ort-cpu", "torch-cpu"])
def test_runtimes_run_forms_between_their_neighbours(name):
    form = forms(layer())["pointwise-plus"]
    runner = PLAN_TARGETS[name]().runner(in_surroundings(form, 32, 16), torch.randn(2, 16, 9, 9), 1)
    result = runner()
    if name == "ort-cpu":
        expected = in_surroundings(form, 32, 16)(torch.zeros(2, 16, 9, 9))
        assert result[0].shape == tuple(expected.shape)


def test_planning_in_torch_leaves_its_threads_as_they_were():
    torch.set_num_threads(2)
    try:
        chooser = Measured(PLAN_TARGETS["torch-cpu"](), batch=1, threads=1, seconds=0)
        assert chooser.costs(forms(layer()), (32, 9, 9))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_times_that_are_compared_are_of_the_same_rounds(monkeypatch):
    chooser = Measured(Pretended(monkeypatch), batch=1, threads=1)
    every = forms(layer())
    chooser.times(every, (32, 9, 9))
    monkeypatch.setattr(measured, "_medians", lambda runners, **_: dict.fromkeys(runners, 7.0))  # a slower minute
    fewer = {name: every[name] for name in ("dense", "pointwise-plus")}
    assert set(chooser.times(fewer, (32, 9, 9)).values()) == {7.0}, "no form keeps its time of another minute"


def pretend(monkeypatch, *found):
    """Let wholes compare as told, in turn and the last for good: ratio, low, high.  Returns what grows when asked."""
    asked = []

    def compared(*_, **__):
        asked.append(found[min(len(asked), len(found) - 1)])
        latency_of = Latency.of([1.0, 1.0], batch=1, threads=1, runtime="x")
        return [Comparison(latency_of, latency_of, *asked[-1])]

    monkeypatch.setattr(runtimes, "compare_latency", compared)
    return asked


def test_a_whole_that_is_slower_falls_back_to_dense(monkeypatch):
    monkeypatch.setattr(measured, "_medians", lambda runners, **_: {name: float(len(name)) for name in runners})
    net = Net().eval()
    example = torch.zeros(1, 3, 12, 12)
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus" if len(costs) > 1 else "dense")
    verdicts = pretend(monkeypatch, (0.5, 0.5, 0.5))
    result = plan(dense_of(net), net, example, SETTINGS)
    assert [found.form for found in result.lowered.layers] == ["dense"]
    assert len(verdicts) == 1
    assert "left dense" in result.note
    assert result.whole is None, "what was timed is not what is left"
    refused = result.lowered.layers[0].refused
    assert set(refused) == set(ORDER) - {"dense"}, "why each form was not taken"
    assert refused["pointwise-plus"] == "14 ms, dense 5; left dense: the whole was not faster"
    assert torch.allclose(result.lowered.model(example), net(example), atol=1e-5)


def test_a_real_plan_computes_the_same():
    net = Net().eval()
    example = torch.zeros(1, 3, 12, 12)
    result = plan(dense_of(net), net, example, SETTINGS)
    images = torch.randn(3, 3, 12, 12)
    assert torch.allclose(result.lowered.model(images), net(images), atol=1e-5)
    assert set(result.to_json()) >= {"plan", "target", "batch", "threads", "layers", "note"}
    assert result.lowered.layers[0].unit == "ms"
    assert all(cost > 0 for cost in result.lowered.layers[0].costs.values())


def test_a_whole_is_timed_once(monkeypatch):
    asked = pretend(monkeypatch, (2.0, 1.5, 2.1), (2.0, 2.0, 2.1))
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus" if len(costs) > 1 else "dense")
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    results = [plan(dense_of(net), net, example, SETTINGS) for _ in range(3)]
    assert len(asked) == 2, "a busy minute is not remembered"
    assert results[1].whole == results[2].whole
    plan(dense_of(net), net, torch.zeros(1, 3, 16, 16), SETTINGS)
    assert len(asked) == 3


def test_planning_again_builds_what_won_alone(monkeypatch):
    pretend(monkeypatch, (2.0, 2.0, 2.1))
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus")
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    first = plan(dense_of(net), net, example, SETTINGS)
    built = []

    def noting(rule, rewrite):
        return lambda self, layer: built.append(rule) or rewrite(self, layer)

    for rule in ORDER:
        monkeypatch.setattr(LOWERINGS[rule], "rewrite", noting(rule, LOWERINGS[rule].rewrite))
    again = plan(dense_of(net), net, example, SETTINGS)
    assert built == ["pointwise-plus"]
    assert again.to_json() == first.to_json(), "why the others lost is remembered"
    net.second.kernel_shapes[:, 1] = False
    assert "pointwise-plus" in plan(dense_of(net), net, example, SETTINGS).lowered.layers[0].form
    assert set(built) > {"pointwise-plus", "dense"}, "another pattern is looked at anew"


def test_a_plan_that_gave_up_layers_is_not_put_together_by_trial_again(monkeypatch):
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus" if len(costs) > 1 else "dense")
    asked = pretend(monkeypatch, (0.5, 0.5, 0.5))
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    first = plan(dense_of(net), net, example, SETTINGS)
    assert first.note
    lowered = []
    monkeypatch.setattr(whole, "lower", lambda *a, **k: lowered.append(k.get("known")) or lower(*a, **k))
    assert plan(dense_of(net), net, example, SETTINGS).to_json() == first.to_json()
    assert [set(known) for known in lowered] == [{"second"}]
    assert len(asked) == 1
    # another way of choosing is another plan, and so is another dense net
    plan(dense_of(net), net, example, dataclasses.replace(SETTINGS, plan="fast"))
    plan(nn.Sequential(dense_of(net)), net, example, SETTINGS)
    assert len(asked) == 3


def test_what_a_busy_minute_decided_is_not_remembered(monkeypatch):
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus" if len(costs) > 1 else "dense")
    asked = pretend(monkeypatch, (1.0, 0.5, 2.0), (2.0, 1.95, 2.05))
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    busy = plan(dense_of(net), net, example, SETTINGS)
    assert (busy.whole, [layer.form for layer in busy.lowered.layers]) == (None, ["dense"])
    assert plan(dense_of(net), net, example, SETTINGS).whole.ratio == 2.0
    plan(dense_of(net), net, example, SETTINGS)
    assert len(asked) == 2


def test_a_plan_is_for_what_is_left_after_tidying(monkeypatch):
    asked = pretend(monkeypatch, (2.0, 2.0, 2.1))
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: [*costs][-1])
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    plan(dense_of(net), net, example, SETTINGS)
    with torch.no_grad():
        net.head.weight[:] = 1.0  # the structure is the same
    plan(dense_of(net), net, example, SETTINGS)
    assert len(asked) == 1
    with torch.no_grad():
        net.first.weight[:16] = 0.0
        net.first.bias[:16] = -1.0  # constants, which are folded away
    plan(dense_of(net), net, example, SETTINGS)
    assert len(asked) == 2


def test_our_kernel_does_not_hide_stock_forms_from_a_fast_plan(monkeypatch):
    class Form(nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.conv = nn.Conv2d(1, weights, 1)

    chooser = Measured(Pretended(monkeypatch), batch=1, threads=1, within=1.5)
    monkeypatch.setattr(chooser, "times", lambda forms, _: dict.fromkeys(forms, 1.0))
    forms = {name: Form(n) for name, n in (("dense", 90), ("crop", 30), ("shape-sum", 50), ("vector-block", 10))}
    assert set(chooser.costs(forms, (1, 4, 4))) == {"dense", "crop", "vector-block"}
    assert {"tap-gemm", "vector-block"} <= set(PlanSettings(kernels=True).rules)


def test_sets_of_filters_that_crumble_into_small_convolutions_are_not_built(monkeypatch):
    monkeypatch.setattr(measured, "_medians", lambda runners, **_: {name: float(len(name)) for name in runners})
    generator = torch.Generator().manual_seed(0)
    fine = HetConv2d.from_conv2d(nn.Conv2d(32, 128, 3), torch.rand(8, 32, 3, 3, generator=generator) < 0.3, 16, 1)
    comb = torch.zeros(8, 32, 3, 3, dtype=torch.bool)
    comb[:, :, 1, 1] = True
    for phase in range(8):
        comb[phase, phase::8] = True
    rules = ("dense", "filter-split")
    for shapes, crumbled in ((fine, True), (HetConv2d.from_conv2d(nn.Conv2d(32, 128, 3), comb, 16, 1), False)):
        assert is_crumbled(shapes) is crumbled
        for chooser in (Measured(Pretended(monkeypatch), batch=1, threads=1), FewestMacs()):
            layer = lower(nn.Sequential(shapes).eval(), torch.zeros(1, 32, 6, 6), rules=rules, chooser=chooser).layers[
                0
            ]
            unbuilt = crumbled and isinstance(chooser, Measured)
            assert ("filter-split" not in layer.costs) is unbuilt
            assert (layer.refused.get("filter-split") == "too many small convolutions to pay") is unbuilt


def test_a_plan_whose_forms_no_longer_fit_is_made_anew(monkeypatch):
    pretend(monkeypatch, (2.0, 2.0, 2.1))
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    first = plan(dense_of(net), net, example, SETTINGS)
    odd = dataclasses.replace(first.lowered.layers[0], form="filter-split")
    monkeypatch.setattr(timings.Decided, "from_json", lambda _: timings.Decided({"second": odd}, None, "odd"))
    again = plan(dense_of(net), net, example, SETTINGS)
    assert "filter-split" in again.lowered.layers[0].refused
    assert again.note != "odd"


def test_what_no_longer_applies_is_looked_at_anew(monkeypatch):
    pretend(monkeypatch, (2.0, 2.0, 2.1))
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    monkeypatch.setattr(Measured, "recall", lambda *_: Survey({"dense": 2.0, "filter-split": 1.0}, {}))
    assert "filter-split" in plan(dense_of(net), net, example, SETTINGS).lowered.layers[0].refused


def test_a_device_times_whole_models_itself(monkeypatch):
    class WithoutDevice(TorchCuda):
        device, version = "cpu", "1"
        waited = 0

        def __init__(self):
            pass

        def wait(self):
            WithoutDevice.waited += 1

    monkeypatch.setitem(PLAN_TARGETS._entries, "torch-cuda", WithoutDevice)
    monkeypatch.setattr(runtimes, "compare_latency", None)
    monkeypatch.setattr(runtimes, "WHOLE_SECONDS", 0.05)
    monkeypatch.setattr("hetcompress.planning.whole.SAME", -1.0)  # whatever the clock says
    monkeypatch.setattr(measured, "cheapest", lambda costs, _: "pointwise-plus" if len(costs) > 1 else "dense")
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    result = plan(dense_of(net), net, example, dataclasses.replace(SETTINGS, target="torch-cuda", batch=2))
    assert (result.whole.dense.runtime, result.whole.dense.batch) == ("torch-cuda", 2)
    assert WithoutDevice.waited > 2 * runtimes.WHOLE_ROUNDS


def test_filters_that_nothing_reads_make_a_whole_faster(monkeypatch):
    asked = pretend(monkeypatch, (2.0, 2.0, 2.0))
    net = Net().eval()
    shapes = torch.ones(1, 32, 3, 3, dtype=torch.bool)
    shapes[:, 16:] = False
    net.second = HetConv2d.from_conv2d(net.second, shapes, "all", 1)
    result = plan(dense_of(net), net, torch.zeros(1, 3, 12, 12), SETTINGS)
    assert [layer.form for layer in result.lowered.layers] == ["dense"]
    assert asked
    assert result.whole.ratio == 2.0
    assert result.lowered.model.first.out_channels == 16


@pytest.mark.parametrize(("ratio", "noise"), [(0.9, 0.01), (0.985, 0.01), (0.985, 0.03)])
def test_a_whole_that_is_slower_without_them_keeps_filters_that_nothing_reads(monkeypatch, ratio, noise):
    asked = pretend(monkeypatch, (ratio, ratio - noise, ratio + noise))
    net, example = Net().eval(), torch.zeros(1, 3, 12, 12)
    shapes = torch.ones(1, 32, 3, 3, dtype=torch.bool)
    shapes[:, 16:] = False
    net.second = HetConv2d.from_conv2d(net.second, shapes, "all", 1)
    for _ in range(2):
        result = plan(dense_of(net), net, example, SETTINGS)
        assert result.lowered.model.first.out_channels == 32
        assert not result.lowered.smaller
        assert result.whole is None
        assert f"not as fast as dense ({ratio} times), so it is left as it was" in result.note
        assert torch.allclose(result.lowered.model(example + 1), net(example + 1), atol=1e-5)
    assert len(asked) == 1, "the second comes from the cache"


def test_fewest_macs_needs_no_clock(monkeypatch):
    monkeypatch.setattr(latency, "measure", None)
    net = Net().eval()
    result = plan(dense_of(net), net, torch.zeros(1, 3, 12, 12), dataclasses.replace(SETTINGS, plan="macs"))
    assert result.lowered.layers[0].form == "pointwise-plus"
    assert result.whole is None


def test_unknown_plans_and_runtimes_are_refused():
    with pytest.raises(UsageError, match=f"--plan.*{', '.join(PLANS)}"):
        PlanSettings(plan="guess")
    with pytest.raises(UsageError, match=r"'fsat'\. Fix: did you mean 'fast'"):
        PlanSettings(plan="fsat")
    with pytest.raises(UsageError, match=r"^--target 'tpu': expected one of ort-cpu"):
        PlanSettings(target="tpu").chooser()
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="a CUDA device"):
            PlanSettings(target="torch-cuda").chooser()


def test_two_processes_keep_what_either_has_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path))
    code = """
import sys
from hetcompress.planning.timings import Timings
for number in range(40):
    timings = Timings("runtime")
    timings.add(f"{sys.argv[1]}{number}", {"dense": 1.0})
    timings.save()
"""
    both = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [process.wait() for process in both] == [0, 0]
    assert len(Timings("runtime").known) == 80
