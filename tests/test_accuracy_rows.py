"""The accuracy benchmark on a small scale: its rows, and what stands in docs/."""

import importlib
import json
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import REPO
from torch import nn

from hetcompress.goals import ShapeSettings
from hetcompress.models import MODELS
from hetcompress.recipes import load_recipe

FOLDER = REPO / "benchmarks" / "accuracy"
NAME = "cifar10-resnet20-2x"
RECIPE = """about = "digits"
[convert]
arch = "hetcompress:digits_net"
arch-arg = ["width=16"]
granularity = "vector8"
[finetune]
data = "digits"
mac-ratio = 1.5
batch-size = 32
"""


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in ("rows", "table", "draw", "peers", "accuracy", "recipe_settings"):
        sys.modules.pop(name, None)


def row(method="ours", learned=ShapeSettings.method, sha256=None, **rest):
    key = {"recipe": NAME, "method": method, "seed": 0}
    shapes = {"shapes": {"method": learned}}
    return {"key": key, "recipe_sha256": sha256 or load_recipe(NAME).sha256, "settings": shapes, **rest}


def test_a_row_takes_the_place_of_its_own_run_alone(module, tmp_path):
    rows, path = module("rows"), tmp_path / "rows.jsonl"
    others = [row(learned="sensitivity"), row(sha256="of an earlier recipe"), row(method="dense")]
    for one in (*others, row(time={}), row(time="measured since")):
        rows.put_row(path, one)
    assert rows.rows_of(path) == [*others, row(time="measured since")]


@pytest.mark.parametrize(
    ("one", "current"),
    [
        (row(), True),
        (row(learned="sensitivity"), False),
        (row(sha256="of an earlier recipe"), False),
        (row(method="dense", learned="sensitivity"), True),  # which learns no shapes
        ({**row(), "key": {"recipe": "of-an-older-version", "method": "ours"}}, False),
        ({"key": {"recipe": NAME, "change": "nothing"}, "recipe_sha256": load_recipe(NAME).sha256}, True),
        (
            {
                "key": {"recipe": NAME, "change": "nothing"},
                "recipe_sha256": load_recipe(NAME).sha256,
                "recipe_method": "magnitude",
            },
            False,
        ),
    ],
)
def test_what_a_recipe_gives_still(module, one, current):
    assert module("rows").is_current(one) is current


def test_comments_do_not_make_another_recipe(tmp_path):
    (tmp_path / "a.toml").write_text(RECIPE)
    (tmp_path / "b.toml").write_text("# run to its end\n" + RECIPE.replace('"digits"\n[convert]', '"other"\n[convert]'))
    (tmp_path / "c.toml").write_text(RECIPE.replace("1.5", "1.6"))
    a, b, c = (load_recipe(str(tmp_path / f"{name}.toml")) for name in "abc")
    assert a.sha256 == b.sha256 != c.sha256


def test_the_table_in_the_documentation_is_that_of_the_rows(module):
    table = module("table")
    page = (REPO / "docs" / "method.md").read_text()
    assert table.put(page, table.tables(FOLDER)) == page, "run benchmarks/accuracy/table.py --into docs/method.md"


def test_the_figures_in_the_documentation_are_those_of_the_rows(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, str(FOLDER / "draw.py"), "--out", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=300).returncode == 0
    for figure in (REPO / "docs" / "figures").glob("*-cifar-10-*.svg"):
        assert marks(tmp_path / figure.name) == marks(figure), f"run benchmarks/accuracy/draw.py: {figure.name}"
    drawn = {figure.name for figure in tmp_path.iterdir()}
    assert drawn == {figure.name for figure in (REPO / "docs" / "figures").glob("*-cifar-10-*.svg")}


def marks(figure):
    """What a figure shows in numbers, how many marks of which style, and what is written; pixels vary."""
    drawn = figure.read_text()
    (numbers,) = re.findall(r"<dc:description>([^<]*)<", drawn)
    assert re.search(r"ours[^:]*: \d+\.\d+ at \d+", numbers)
    styles = Counter(re.findall(r'<use [^>]*style="([^"]*)"', drawn))
    return numbers, styles, sorted(re.findall(r"<text [^>]*>([^<]*)<", drawn))


@pytest.fixture
def make(digits, tmp_path):
    """Makes a row of the digits net by the command line; returns what it printed, and all rows."""
    recipe, out = tmp_path / "digits.toml", tmp_path / "rows.jsonl"
    recipe.write_text(RECIPE)

    def run(*options):
        command = [
            sys.executable, str(FOLDER / "accuracy.py"), str(recipe), str(tmp_path / "model.pt"), "--max-steps", "3",
            "--seconds", "0", "--out", str(out), "--work", str(tmp_path / "work"), *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stderr, [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_rows_from_the_command_line(make):
    _, (ours,) = make()
    assert ours["mac_ratio_executed"] == pytest.approx(1.5, rel=0.05)
    assert 0 < ours["last_epoch"] <= ours["best_epoch"] <= 100
    assert ours["settings"]["train"]["max_steps"] == 3
    printed, rows = make()
    assert "epoch" not in printed, "trained again"
    assert rows == [ours]


def test_rows_of_torch_pruning(make):
    pytest.importorskip("torch_pruning")
    _, (ours,) = make()
    for method in ("tp-magnitude", "tp-uniform", "tp-group-norm", "tp-bn-scale"):
        _, (same, *_, peer) = make("--method", method)
        assert same == ours
        assert (peer["key"]["method"], peer["key"]["match"]) == (method, "macs")
        assert peer["mac_ratio_effective"] == pytest.approx(ours["mac_ratio_executed"], rel=0.1)


@pytest.mark.parametrize(("method", "ratio"), [("dense", 1.0), ("unstructured", 1.5), ("hetconv", None)])
def test_rows_of_other_shapes(make, method, ratio):
    _, (one,) = make("--method", method)
    if ratio is None:  # the comb's own: 1 / P + (1 - 1 / P) / 9 of the weights of converted layers
        assert 1 < one["mac_ratio_effective"] < 3
    else:
        assert one["mac_ratio_effective"] == pytest.approx(ratio, rel=0.05)
    assert ("mac_ratio_executed" in one) is (method != "unstructured")
    assert ("shapes" in one["settings"]) is (method == "unstructured")


def test_uniform_pruning_takes_the_same_share_of_each_layer(module):
    pytest.importorskip("torch_pruning")
    peers = module("peers")
    torch.manual_seed(0)
    net, image = MODELS["vgg16_bn"].build(), torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        net.features[0].weight.mul_(100)  # which a global ranking would not touch
    peers.pruner_of(net, image, "tp-uniform", ratio=0.5).step()
    assert {layer.out_channels for layer in net.features if isinstance(layer, nn.Conv2d)} == {32, 64, 128, 256}


def test_what_is_executed_is_that_of_the_net_that_is_timed(module):
    mac_ratio = module("table").mac_ratio
    one = row(mac_ratio_executed=2.0, mac_ratio_effective=2.2)
    assert mac_ratio(one) == 2.0
    assert mac_ratio({**one, "executed": {"kernels": {"mac_ratio": 2.1}, "stock": {"mac_ratio": 1.0}}}) == 2.1
    assert mac_ratio(row("unstructured", mac_ratio_effective=2.2)) == 2.2


def test_a_peer_that_is_matched_to_what_ours_has_no_more(module, tmp_path):
    pytest.importorskip("torch_pruning")
    peers = module("peers")
    ours = {"key": {"recipe": NAME, "method": "ours", "seed": 0}, "mac_ratio_executed": 2.0, "machine": {"cpu": "one"}}
    ours["time"] = {"kernels": [{"ratio": 1.5}]}

    def peer(what, target, cpu="one"):
        key = {"recipe": NAME, "method": "tp-magnitude", "seed": 0, "match": what}
        return {"key": key, "matched": {"what": what, "target": target}, "machine": {"cpu": cpu}}

    for fine in (peer("macs", 2.01), peer("kernels", 1.54), peer("kernels", 3.0, cpu="another")):
        peers.check_matched(fine, [ours], tmp_path)
    peers.check_matched(peer("macs", 9.0), [], tmp_path)
    for gone in (peer("macs", 2.1), peer("kernels", 1.7)):
        with pytest.raises(
            SystemExit, match=r"this row is matched to (macs|kernels) .*, and ours has (2.000|1.500) now"
        ):
            peers.check_matched(gone, [ours], tmp_path)


def test_a_source_from_random_weights(tmp_path):
    pytest.importorskip("sklearn")
    out = tmp_path / "net.pt"
    command = [sys.executable, FOLDER / "dense.py", "digits_net", "--data", "digits", "--epochs", "6", "--out", out]
    options = ["--batch-size", "64", "--small-size", "6", "--cutout", "0"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["correct"] / result["total"] > 0.8, "of ten classes"
    assert MODELS["digits_net"].build().load_state_dict(torch.load(out, weights_only=True))
    assert not out.with_suffix(".state").exists()
