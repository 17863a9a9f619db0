"""Named granularities, and conversions in which layers differ."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetcompress.allocation import allocate
from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.granularity import FINEST_FIRST, GRANULARITIES, Grain
from hetcompress.kept_costs import kept_cost
from hetcompress.lowering import LOWERINGS
from hetcompress.models import MODELS
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning import TimedGrain
from hetcompress.pruning import magnitudes, prune, worths
from hetcompress.shapes import SetShapes
from hetcompress.surgery import named_modules_of


@given(
    st.sampled_from(sorted(GRANULARITIES)), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([1, 3]),
)  # fmt: skip
def test_every_granularity_starts_exact_and_comes_back_from_json(name, groups, filters, channels, size):
    conv = nn.Conv2d(channels * groups, filters * groups, size, groups=groups)
    grain = GRANULARITIES[name](conv)
    again = Grain.from_json(json.loads(json.dumps(grain.to_json())))
    assert again.to_json() == grain.to_json()
    layer = LearnableHetConv2d.from_conv2d(conv, again.family, again.group_out, again.group_in)
    images = torch.randn(2, conv.in_channels, 5, 5)
    assert torch.equal(layer(images), conv(images))
    assert FINEST_FIRST[0] == "vector8"
    assert set(FINEST_FIRST) == set(GRANULARITIES)


@pytest.mark.parametrize(("filters", "sets"), [(16, 1), (32, 2), (48, 1), (64, 4), (512, 4), (10, 1)])
def test_sets_of_filters_are_equal_and_at_least_a_block(filters, sets):
    assert GRANULARITIES["sets"](nn.Conv2d(16, filters, 3)).group_out == filters // sets


@pytest.mark.parametrize("name", ["channels", "whole"])
@pytest.mark.parametrize(("conv", "block"), [((3, 8), 4), ((63, 99), 4), ((64, 16), 16), ((512, 512), 16)])
def test_narrow_layers_decide_in_short_blocks(name, conv, block):
    assert GRANULARITIES[name](nn.Conv2d(*conv, 3)).family.block == block
    assert GRANULARITIES[name](nn.Conv2d(512, 512, 3, groups=512)).family.block == 4, "channels of a conv group count"


@pytest.mark.parametrize("name", ["channels", "whole"])
def test_a_narrow_net_can_lose_a_quarter_of_its_channels(name):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    grains = {layer: GRANULARITIES[name](net[int(layer)]) for layer in ("1", "2")}
    layers = named_modules_of(convert(net, grains=grains).model, LearnableHetConv2d)
    masks = allocate(layers, worths(layers, magnitudes(layers)), Budget.of_density(layers, 0.75), strict=False)
    assert sum(float(mask.mean()) for mask in masks.values()) / 2 == pytest.approx(0.75, abs=0.03)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 16), st.floats(0, 1), st.integers(0, 99))
def test_sets_are_equally_large_and_share_the_centre(out_groups, channels, block, price, seed):
    torch.manual_seed(seed)
    family = SetShapes(block=block)
    logits = family.logits_of(torch.rand(out_groups, channels, 3, 3))
    masks = family.masks(family.priced(logits, price, (3, 3)), (3, 3))
    taps = masks.flatten(2).sum(-1)
    assert set(taps.unique().tolist()) <= {0, 1, 9}
    assert len((taps == 9).sum(1).unique()) == 1
    assert (masks[..., 1, 1] == masks[:1, :, 1, 1]).all()
    again = family.masks(family.logits_of(2 * masks - 1), (3, 3))
    assert torch.equal(again, masks), "what a schedule writes back is what it chose"


@pytest.mark.parametrize("more", [0, 1])
def test_sets_of_one_size_become_one_group_convolution(more):
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1)
    grain = GRANULARITIES["sets"](conv)
    scores = torch.rand(4, 64, 3, 3)
    price = float(scores.mean())  # about half of the blocks are worth it
    shapes = grain.family.masks(grain.family.priced(grain.family.logits_of(scores), price, (3, 3)), (3, 3)) > 0
    layer = HetConv2d.from_conv2d(conv, shapes, grain.group_out, grain.group_in)
    single = (layer.kernel_shapes[0].flatten(1).sum(1) == 1).nonzero().flatten()
    layer.kernel_shapes[0, single[:more]] = True  # a set that is larger by one
    form = LOWERINGS["filter-split"]().rewrite(layer)
    if not more:  # one channel more would fill a whole further block of each set: forms side by side are less work
        assert [m.groups for m in form.modules() if isinstance(m, nn.Conv2d)] == [1, 4]
    images = torch.randn(2, 64, 6, 6)
    assert torch.allclose(form(images), layer(images), atol=1e-5)


def test_layers_of_one_model_may_differ():
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 32, 1)
    )
    names = dict(zip(("1", "3", "4"), ("vector", "sets", "channels"), strict=True))
    grains = {layer: GRANULARITIES[name](net[int(layer)]) for layer, name in names.items()}
    model = convert(net, grains=grains).model
    layers = named_modules_of(model, LearnableHetConv2d)
    assert [layer.family.name for layer in layers.values()] == ["free", "sets", "centre"]
    budget = Budget.of_density(layers, 0.4)
    logits = {name: layers[name].family.logits_of(worth) for name, worth in magnitudes(layers).items()}
    pruned = named_modules_of(prune(model, budget, logits=logits), HetConv2d)
    kept = kept_cost(layers, {name: layer.kernel_shapes.float() for name, layer in pruned.items()}, budget)
    assert kept == pytest.approx(budget.kept, rel=0.0101)


@pytest.mark.parametrize("name", [*sorted(GRANULARITIES), "auto"])
def test_the_command_line_takes_granularities(hc, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path / "cache"))
    torch.save(MODELS["digits_net"].build(width=64).state_dict(), tmp_path / "model.pt")
    wide = ("--arch", "hetcompress:digits_net", "--arch-arg", "width=64")
    code, out, err = hc("convert", "model.pt", *wide, "--granularity", name)
    assert code == 0, err
    assert "converted: " + ("" if name == "auto" else name) in out
    assert json.loads((tmp_path / "hetrun" / "run.json").read_text())["conversion"]["granularity"] == name
    code, out, err = hc("prune", "--mac-ratio", 1.5)
    assert code == 0, err
    assert hc("report", "--no-latency")[0] == 0


@pytest.mark.parametrize(
    ("options", "compiled", "said"),
    [
        ((), True, "on ort-cpu, with our kernel (--no-kernels: without)"),
        ((), False, "on ort-cpu, without our kernel"),
        (("--no-kernels",), True, "on ort-cpu, without our kernel"),
    ],
)
def test_auto_counts_on_our_kernel_where_it_was_compiled(hc, digits, tmp_path, monkeypatch, options, compiled, said):
    asked = []

    def choose(_model, names, _example, settings):
        asked.append(settings.kernels)
        grain = GRANULARITIES["whole"](nn.Conv2d(16, 16, 3))
        return {name: TimedGrain("whole", grain, {}, {}) for name in names}

    monkeypatch.setattr("hetcompress.pipeline._convert.choose_granularities", choose)
    monkeypatch.setattr("hetcompress.pipeline._convert.available", lambda: (compiled, ""))
    code, out, err = hc("convert", "model.pt", *digits, "--granularity", "auto", "--dry-run", *options)
    assert code == 0, err
    assert said in out
    assert asked == ["with our" in said]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--granularity", "vectors"), "did you mean 'vector'?"),
        (("--granularity", "sets", "--group-out", 4), "expected no --family, --family-arg, --group-out or --group-in"),
        (("--granularity", "vector", "--family", "free"), "expected no --family, --family-arg, --group-out or"),
        (("--granularity", "auto", "--target", "tpu"), "ort-cpu"),
    ],
)
def test_what_granularities_do_not_take(hc, digits, tmp_path, options, message):
    code, out, err = hc("convert", "model.pt", *digits, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "hetrun").exists()
