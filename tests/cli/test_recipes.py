"""Recipes: each one that comes with the package can be run, bad ones are refused, and what was used is on record."""

import json

import numpy as np
import pytest
import torch

from hetcompress.conversion import convert
from hetcompress.data import DATA_SOURCES
from hetcompress.goals import ShapeSettings
from hetcompress.models import MODELS, parse_architecture
from hetcompress.recipes import COMMANDS, load_recipe, recipe_names
from hetcompress.shapes import build_family


@pytest.fixture
def images(tmp_path):
    """Make a tree of small images of two classes; returns its folder."""
    image = pytest.importorskip("PIL.Image")

    def make(name, splits, size):
        random = np.random.default_rng(0)
        for split in splits:
            for label in ("cat", "dog"):
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for index in range(6):
                    image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
                        folder / f"{index}.png"
                    )
        return tmp_path / name

    return make


def checkpoint(tmp_path, spec, **arguments):
    torch.save(parse_architecture(spec, arguments).build().state_dict(), tmp_path / "model.pt")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_fits_the_commands_and_its_net(hc, name):
    recipe = load_recipe(name)
    assert recipe.about
    assert set(recipe.options) == set(COMMANDS)
    # the commands refuse an unknown key or a bad value before they look at the missing file
    for command in (("convert", "nowhere.pt"), ("finetune",)):
        code, _, err = hc(*command, "--recipe", name)
        assert code == 3
        assert "expected" in err
        assert "key" not in err
    given = recipe.options["convert"]
    arguments = dict(pair.split("=") for pair in given.get("arch-arg", ()))
    model = parse_architecture(given["arch"], {key: int(value) for key, value in arguments.items()}).build_meta()
    family = dict(pair.split("=") for pair in given.get("family-arg", ()))
    shapes = build_family(given.get("family", "free"), {key: int(value) for key, value in family.items()})
    sizes = {"group_out": given.get("group-out", 16), "group_in": given.get("group-in", 1)}
    sizes = sizes if shapes.learnable else dict.fromkeys(sizes, 1)
    assert convert(model, family=shapes, include=given.get("include", ()), **sizes).layers
    assert recipe.options["finetune"]["data"] in DATA_SOURCES
    target = {key.replace("-", "_"): recipe.options["finetune"].get(key) for key in ("density", "mac-ratio")}
    assert ShapeSettings(**target).has_target == shapes.learnable


CIFAR = ["cifar10-resnet20-5x", "cifar100-resnet56-2x", "lhc-cifar10-vgg16-rigid", "hetconv-cifar10-vgg16bn-p4"]
IMAGENET = [name for name in recipe_names() if "imagenet" in name and "vgg16" not in name]  # half a gigabyte of weights
assert len(IMAGENET) == 4


@pytest.mark.parametrize("name", CIFAR)
def test_recipes_for_small_images_run(hc, images, tmp_path, name):
    root = images(load_recipe(name).options["finetune"]["data"], ("train", "test"), 32).parent
    # a small net and two classes, as the tiny data has, and everything else as the recipe says
    checkpoint(tmp_path, "hetcompress:resnet20", num_classes=2)
    finer = ("--group-out", 4, "--group-in", 4) if name.startswith("lhc") else ()
    code, _, err = hc("convert", "model.pt", "--recipe", name, "--arch", "hetcompress:resnet20", *finer)
    assert code == 0, err
    code, _, err = hc("finetune", "--recipe", name, "--data-root", root, "-b", 3, "--max-steps", 4, "-q")
    assert code == 0, err
    recorded = json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]
    assert recorded["convert"]["recipe"] == recorded["finetune"]["recipe"] == load_recipe(name).to_json()
    assert recorded["finetune"]["train"]["epochs"] == load_recipe(name).options["finetune"]["epochs"]
    assert recorded["finetune"]["train"]["batch_size"] == 3


@pytest.mark.parametrize("name", IMAGENET)
def test_recipes_for_large_images_run(hc, images, tmp_path, name):
    root = images("imagenet", ("train", "val"), 40)
    checkpoint(tmp_path, load_recipe(name).options["convert"]["arch"], num_classes=2)
    code, _, err = hc("convert", "model.pt", "--recipe", name, "--input-size", 3, 32, 32)
    assert code == 0, err
    options = ("--data-root", root, "-b", 3, "--max-steps", 4, "-j", 0, "-q")
    code, _, err = hc("finetune", "--recipe", name, *options)
    assert code == 0, err


def test_options_by_hand_win_and_displace_what_excludes_them(hc, digits, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[convert]\ngranularity = "channels"\n[finetune]\ndata = "digits"\nmac-ratio = 3.0\nlr = 0.01\n'
        "batch-size = 32\nmax-steps = 4\nstage1 = 0.16\nflip = false\n"
    )
    assert hc("convert", "model.pt", *digits, "--recipe", "mine.toml", "--family", "rigid")[0] == 0
    code, _, err = hc("finetune", "--recipe", "mine.toml", "--density", 0.5, "--lr", 0.02, "-q")
    assert code == 0, err
    stages = json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]
    assert stages["convert"]["settings"]["family"] == "rigid"
    assert stages["convert"]["settings"]["granularity"] is None
    assert (stages["finetune"]["shapes"]["density"], stages["finetune"]["shapes"]["mac_ratio"]) == (0.5, None)
    assert (stages["finetune"]["train"]["lr"], stages["finetune"]["train"]["batch_size"]) == (0.02, 32)
    assert stages["finetune"]["data"]["flip"] is False
    assert stages["finetune"]["recipe"]["name"] == "mine"
    code, _, err = hc("finetune", "--recipe", "mine.toml", "--stage", "fine", "-q")
    assert code == 0, err  # the target of a recipe has been met before stage fine
    code, _, err = hc(
        "finetune", "--recipe", "mine.toml", "--stage", "both", "--sched", "cosine", "--resume", "never", "-q"
    )
    assert code == 0, err
    shapes = json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]["finetune"]["shapes"]
    assert shapes["mac_ratio"] is not None, "only stage fine excludes a target"


def test_a_run_that_was_converted_otherwise_than_the_recipe_says(hc, digits, tmp_path):
    (tmp_path / "one.toml").write_text(
        'about = "one"\n[convert]\narch = "hetcompress:digits_net"\narch-arg = ["width=16"]\ngranularity = "vector8"\n'
        '[finetune]\ndata = "digits"\nbatch-size = 32\nmax-steps = 3\n'
    )
    cases = {
        (): "shapes free 16 x 1, there free 8 x 1",
        ("--granularity", "whole"): "shapes whole, there free 8 x 1",
        ("--group-out", 8): None,
        ("--group-out", 8, "--exclude", "conv2"): "exclude conv2, there none",
        ("--recipe", "one.toml"): None,
        ("--recipe", "one.toml", "--family", "hetconv", "--family-arg", "parts=4"): "hetconv parts=4 1 x 1, there free",
    }
    for number, (options, said) in enumerate(cases.items()):
        assert hc("convert", "model.pt", *digits, *options, "--run", f"run{number}")[0] == 0
        code, _, err = hc("finetune", "--recipe", "one.toml", "--run", f"run{number}", "-q")
        assert code == 0 or "hetconv" in options, err
        assert ("was not converted as recipe one says" in err) is (said is not None), options
        assert (said or "") in err


def test_an_architecture_by_hand_displaces_arguments_of_the_recipe_s_own(hc, tmp_path):
    checkpoint(tmp_path, "hetcompress:resnet20", num_classes=10)
    (tmp_path / "vgg.toml").write_text('[convert]\narch = "hetcompress:vgg16"\narch-arg = ["batch_norm=true"]\n')
    code, _, err = hc("convert", "model.pt", "--recipe", "vgg.toml", "--arch", "hetcompress:resnet20")
    assert code == 0, err


BAD = {
    "unknown recipe": ("--recipe cifar10-resnet20-2y", None, 2, "did you mean 'cifar10-resnet20-2x'?"),
    "no file": ("--recipe none.toml", None, 3, "recipe none.toml: expected a readable file"),
    "no TOML": ("", "[finetune\n", 3, "recipe r.toml: expected TOML, found"),
    "no text": ("", b"\xff\xfe", 3, "recipe r.toml: expected TOML, found"),
    "table": ("", "[finetun]\n", 3, "key finetun: expected about, [convert], [finetune], found 'finetun'"),
    "no table": ("", "finetune = 3\n", 3, "key finetune: expected a table, [finetune], found 3"),
    "key": ("", "[finetune]\nepoch = 3\n", 3, "found 'epoch'. Fix: did you mean 'epochs'?"),
    "by hand": ("", '[finetune]\nrun = "x"\n', 3, "found 'run'. Fix: leave"),
    "text for a number": ("", '[finetune]\nlr = "fast"\n', 3, "key lr: expected a number, found 'fast'"),
    "truth for a number": ("", "[finetune]\nbatch-size = true\n", 3, "batch-size: expected a whole number, found True"),
    "fraction": ("", "[finetune]\nbatch-size = 1.5\n", 3, "key batch-size: expected a whole number, found 1.5"),
    "number for truth": ("", "[finetune]\nflip = 1\n", 3, "key flip: expected true or false, found 1"),
    "too small": ("", "[finetune]\nthreads = 0\n", 3, "key threads: expected a whole number of at least 1, found 0"),
    "no list": ("", "[finetune]\nmilestone = 0.5\n", 3, "key milestone: expected a list of values, found 0.5"),
    "name": ("", '[finetune]\ndata = "digit"\n', 3, "key data: data set 'digit': expected one of"),
    "choice": ("", '[finetune]\ndata = "digits"\nopt = "adam"\n', 3, "key opt: --opt: expected sgd, momentum, adamw"),
    "two targets": ("--data digits", "[finetune]\ndensity = 0.5\nlatency-ratio = 2\n", 2, "found --density and"),
    "bad by hand": ("--data digits --opt adam", "[finetune]\nlr = 0.1\n", 2, "--opt: expected sgd, momentum, adamw"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_recipes_end_in_one_line(hc, tmp_path, case):
    options, text, expected, message = BAD[case]
    if text is not None:
        (tmp_path / "r.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        options += " --recipe r.toml"
    code, out, err = hc("finetune", *options.split())
    assert (code, out, err.count("\n")) == (expected, "", 1), err
    assert message in err


def test_lists_of_names(hc):
    code, out, _ = hc("list", "recipes")
    assert code == 0
    assert len(out.splitlines()) == len(recipe_names()) > 15
    assert "cifar10-resnet20-2x            ResNet-20 on CIFAR-10" in out
    assert json.loads(hc("list", "recipes", "--json")[1])["result"] == {"recipes": recipe_names()}
    assert hc("list", "shape-families")[1].split() == ["centre", "free", "hetconv", "rigid", "sets", "whole"]
    code, _, err = hc("list", "recipe")
    assert code == 2
    assert "did you mean 'recipes'?" in err


def test_a_target_that_is_too_hard_is_said_early(hc, digits, tmp_path):
    pytest.importorskip("sklearn")
    train_briefly(tmp_path / "model.pt")
    hc("convert", "model.pt", *digits)
    options = ("finetune", "--data", "digits", "-b", 32, "--max-steps", 100, "--stage1", 0.5)
    code, _, err = hc(*options, "--mac-ratio", 12, "--lr", 1e-4)
    assert code == 0, err
    assert err.index("NOTE: MAC ratio 12 is hard for this model") < err.index("after stage 2")
    said = json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]["finetune"]["too_hard"]
    assert (said["unit"], said["target"]) == ("MAC ratio", 12)
    assert 1 < said["easier"] < 12
    assert f"next easier to try: MAC ratio {said['easier']:.3g}" in err
    code, _, err = hc(*options, "--mac-ratio", 12, "--lr", 1e-4, "--resume", "never", "-q")
    assert err.startswith("NOTE: MAC ratio 12 is hard for this model"), "-q leaves warnings"
    code, _, err = hc(*options, "--mac-ratio", 1.05, "--resume", "never")
    assert "NOTE" not in err
    assert json.loads((tmp_path / "hetrun" / "run.json").read_text())["stages"]["finetune"]["too_hard"] is None


def train_briefly(path):
    """Train the digits net of `path` well enough that there is something to lose."""
    from hetcompress.data import open_data
    from hetcompress.training import Trainer, TrainSettings

    zoo = MODELS["digits_net"]
    model, spec = zoo.build(width=16), zoo.input_spec
    data = open_data("digits", root=None, mean=spec.mean, std=spec.std, image_size=spec.size)
    settings = TrainSettings(batch_size=64, lr=0.1, distill=0.0, features=0.0)
    trainer = Trainer(model, data, settings, total_steps=60, teacher=None, device=torch.device("cpu"))
    trainer.run(0, 60, stage=(0, 60), hook=None, after_step=lambda _step: None)
    torch.save(model.state_dict(), path)
