"""The ways of learning shapes that the benchmarks compare, on a small scale."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import REPO
from torch import nn

from hetcompress.models import MODELS
from hetcompress.nn import LearnableHetConv2d
from hetcompress.recipes import load_recipe
from hetcompress.shapes import FreeShapes
from hetcompress.training import TrainSettings

RECIPE = """about = "digits"
[convert]
arch = "hetcompress:digits_net"
granularity = "vector8"
[finetune]
data = "digits"
mac-ratio = 1.5
stage1 = 0.6
batch-size = 32
milestone = [0.5]
sched = "multistep"
"""
CHANGES = (
    "nothing", "geometric mean of sensitivity and magnitude", "taps by curvature", "hard concrete gates", "group lasso",
    "trained logits, shapes of LHC's library", "the budget tightens linearly", "whole channels",
    "neither features nor scores",
)  # fmt: skip


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "benchmarks" / "accuracy")
    yield importlib.import_module
    for name in ("ablation", "relaxations", "scores", "rows", "recipe_settings"):
        sys.modules.pop(name, None)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "digits.toml").write_text(RECIPE)
    return load_recipe(str(tmp_path / "digits.toml"))


@pytest.mark.usefixtures("recipe")
def test_all_kinds_of_changes_reach_the_budget(module, tmp_path, monkeypatch):
    arguments = (
        tmp_path / "digits.toml",
        tmp_path / "model.pt",
        "--epochs",
        2,
        "--out",
        tmp_path / "rows",
        "--only",
        *CHANGES,
    )
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    torch.save(MODELS["digits_net"].build().state_dict(), tmp_path / "model.pt")
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, arguments)])
    module("ablation").main()
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["key"]["change"] for row in rows] == list(CHANGES)
    for row in rows:
        assert row["mac_ratio"] == pytest.approx(1.5, rel=0.05), row["key"]
    assert len({(row["after stage 1"], row["after pruning"], row["test_loss"]) for row in rows}) == len(rows)


def test_a_recipe_says_the_same_to_a_benchmark(module, recipe):
    settings = module("recipe_settings").RecipeSettings
    found = settings.of(recipe, root=None, changes={"epochs": 2})
    assert found.train == TrainSettings(epochs=2, batch_size=32, milestones=(0.5,), sched="multistep")
    assert (found.data.name, found.shapes.mac_ratio) == ("digits", 1.5)
    with pytest.raises(SystemExit, match="nothing takes ramps"):
        settings.of(recipe, root=None, changes={"ramps": 2})


def test_gates_are_open_as_often_as_their_expected_cost_says(module):
    torch.manual_seed(0)
    layer = LearnableHetConv2d.from_conv2d(nn.Conv2d(64, 64, 3), FreeShapes(), 1, 1)
    budget = SimpleNamespace(unit_costs={"one": 1.0}, share=0.5, wiring=None)
    learner = module("relaxations").HardConcrete({"one": layer}, budget, ramp=1.0)
    for logit in (-2.0, 0.0, 2.0):
        with torch.no_grad():
            learner.gates["one"].fill_(logit)
        learner.before_forward(0.0)
        gates = layer.tap_probe + 1
        assert 0 <= gates.min() <= gates.max() <= 1
        assert (gates > 0).float().mean().item() == pytest.approx(learner.kept().item(), abs=0.01)


def test_group_lasso_sums_the_norms_of_groups(module):
    layer = LearnableHetConv2d.from_conv2d(nn.Conv2d(1, 4, (1, 2), bias=False), FreeShapes(), 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 5.0], [0.0, 12.0]]).view(4, 1, 1, 2))
    learner = module("relaxations").GroupLasso({"one": layer}, None, ramp=1.0, calibration=0.1)
    assert learner.at_first == pytest.approx(2**0.5 * (5 + 13), rel=1e-4)  # groups of two kernels weigh sqrt(2)
