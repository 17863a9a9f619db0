"""Specs, factories, and finding an architecture by its tensors."""

import pytest
import torch
import torchvision

from hetcompress.errors import InputError, UsageError
from hetcompress.models import MODELS, identification, identify, input_spec_of, load_model, parse_architecture
from hetcompress.models.identification import MARKS, TWINS, _candidates, _marked, _shapes_of, differences


@pytest.mark.parametrize("name", sorted(MODELS))
def test_zoo_nets_are_found_by_their_tensors(name):
    for classes in (10, 7):
        found = identify(MODELS[name].build(num_classes=classes).state_dict())
        assert (found.spec, found.arguments) == (f"hetcompress:{name}", {"num_classes": classes})


def test_shortcut_b_is_found():
    found = identify(MODELS["resnet32"].build(shortcut="B").state_dict())
    assert found.arguments == {"num_classes": 10, "shortcut": "B"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "squeezenet1_0"])
def test_torchvision_nets_are_found(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, num_classes=13)
    found = identify(model.state_dict())
    assert (found.spec, found.arguments) == (f"torchvision:{name}", {"num_classes": 13})
    assert input_spec_of(found, model).size == (3, 224, 224)


def test_timm_nets_are_found():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("resnet26", num_classes=13)
    assert identify(model.state_dict()).spec == "timm:resnet26"


def test_failure_lists_the_nearest_and_what_differs():
    tensors = MODELS["resnet20"].build().state_dict()
    del tensors["layer3.2.conv2.weight"]
    with pytest.raises(
        InputError, match=r"nearest hetcompress:resnet20: missing: layer3\.2\.conv2\.weight \| .*--arch"
    ):
        identify(tensors)


def test_a_renamed_net_is_compared_by_shapes():
    tensors = {f"layers.{i}": tensor for i, tensor in enumerate(MODELS["resnet56"].build().state_dict().values())}
    with pytest.raises(InputError, match=r"nearest hetcompress:resnet56: "):
        identify(tensors)


def test_a_few_other_names_do_not_hide_the_net():
    tensors = MODELS["resnet32"].build().state_dict()
    renamed = {name.replace("linear", "head").replace("bn1", "norm1"): tensor for name, tensor in tensors.items()}
    with pytest.raises(InputError, match=r"nearest hetcompress:resnet32: "):
        identify(renamed)


def test_equal_nets_of_other_sources_are_named(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.architecture.spec == "torchvision:resnet18"
    assert loaded.notes == (
        "model.pt was read as torchvision:resnet18; timm:resnet18 fits as well: choose with --arch",
    )
    assert load_model(tmp_path / "model.pt", arch="timm:resnet18").notes == ()


def test_a_twin_is_named_without_being_built(tmp_path, monkeypatch):
    pytest.importorskip("timm")

    def refuse(name):
        raise AssertionError(f"built timm:{name}")

    monkeypatch.setattr("hetcompress.models.architectures._timm_factory", refuse)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "model.pt")
    assert "timm:resnet18 fits as well" in load_model(tmp_path / "model.pt").notes[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet20", "write hetcompress:resnet20"),
        ("vgg16", "write hetcompress:vgg16 or torchvision:vgg16"),
        ("hetcompress:resnet21", "did you mean 'resnet"),
        ("torchvision:resnet35", "did you mean 'resnet"),
        ("nowhere.py:factory", "expected a Python file, found no such file"),
        ("no_such_module:factory", "found no module named 'no_such_module'"),
        ("hetcompress.models:nothing", "expected a factory 'nothing', found none"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(UsageError, match=message):
        parse_architecture(spec)


def factory_file(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(f"from torch import nn\n\ndef build(width=4, **options):\n    {body}\n")
    return f"{path}:build"


def test_a_users_own_factory(tmp_path):
    spec = factory_file(tmp_path, "return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 2, 1))")
    architecture = parse_architecture(spec, {"width": 6})
    model = architecture.build()
    assert model[0].out_channels == 6
    assert input_spec_of(architecture, model) is None
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt", arch=spec, arguments={"width": 6}).model[1].out_channels == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "expected a factory of an nn.Module, found int"),
        ("return 1 / 0", r"found ZeroDivisionError: division by zero \(mine.py, line 4\)"),
        ("return nn.Conv2d(**options)", "found TypeError"),
    ],
)
def test_a_users_broken_factory(tmp_path, body, message):
    with pytest.raises(UsageError, match=message):
        parse_architecture(factory_file(tmp_path, body)).build()


def test_class_count_is_taken_from_the_checkpoint_or_explained(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(MODELS["resnet20"].build(num_classes=7).state_dict(), path)
    assert load_model(path, arch="hetcompress:resnet20").architecture.arguments == {"num_classes": 7}
    with pytest.raises(InputError, match=r"linear\.weight 7x64 for 10x64.*pass --arch-arg num_classes=7"):
        load_model(path, arch="hetcompress:resnet20", arguments={"num_classes": 10})


def test_checkpoint_of_another_architecture(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(MODELS["vgg16"].build().state_dict(), path)
    with pytest.raises(InputError, match=r"expected the tensors of hetcompress:resnet20.*missing: conv1\.weight"):
        load_model(path, arch="hetcompress:resnet20")


def test_weights_called_auxiliary_may_be_too_many_but_not_missing(tmp_path):
    spec = factory_file(
        tmp_path, "return nn.ModuleDict({'conv': nn.Conv2d(3, width, 3), 'aux_path': nn.Linear(width, 2)})"
    )
    weights = parse_architecture(spec).build().state_dict()
    torch.save({**weights, "aux1.fc.weight": torch.ones(2, 2)}, tmp_path / "more.pt")
    assert load_model(tmp_path / "more.pt", arch=spec).model["aux_path"].in_features == 4
    del weights["aux_path.weight"]
    torch.save(weights, tmp_path / "less.pt")
    with pytest.raises(InputError, match=r"missing: aux_path\.weight"):
        load_model(tmp_path / "less.pt", arch=spec)


def known():
    """Every net that is compared with a checkpoint, but for the largest relatives of those that are."""
    for source in _candidates(7):
        yield from (net for net in source if not net.spec.endswith(LARGE))


LARGE = (
    "_b3",
    "_b4",
    "_b5",
    "_b6",
    "_b7",
    "_m",
    "_l",
    "_base",
    "_large",
    "_v2_s",
    "_16",
    "_b_32",
    "_h_14",
    "gf",
    "169",
)


def test_marks_rule_out_no_net_that_fits():
    wrong = [net.spec for net in known() if not _marked(net, _shapes_of(net))]
    assert wrong == []
    used = [mark for mark in MARKS if any(net.spec.startswith(mark) for net in known())]
    assert set(MARKS) - set(used) <= {"torchvision:vit", "torchvision:regnet"}  # none is small


def test_twins_are_all_that_fit_twice():
    pytest.importorskip("timm")
    _, torchvisions, timms = _candidates(7)
    specs = {net.spec.partition(":")[2]: net for net in torchvisions}
    both = [(specs[name], net) for net in timms if (name := net.spec.partition(":")[2]) in specs]
    assert len(both) > len(TWINS)
    fitting = {
        net.spec.partition(":")[2] for other, net in both if not differences(_shapes_of(other), _shapes_of(net)).size
    }
    assert fitting == set(TWINS)


def test_our_nets_are_found_without_a_library(monkeypatch):
    def refuse():
        raise AssertionError("imported torchvision")

    monkeypatch.setattr(identification, "_torchvision_names", refuse)
    assert identify(MODELS["resnet20"].build().state_dict()).spec == "hetcompress:resnet20"


def test_nets_without_initialisation_are_whole():
    """A net whose numbers all come from its file: none of its tensors stays on the meta device."""
    for net in known():
        model = net.skeleton()
        saved = model.state_dict()
        assert {name for name, _ in model.named_buffers()} <= saved.keys(), net.spec
        assert not [
            value
            for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, torch.Tensor) and value.is_meta
        ], net.spec


def test_an_argument_that_a_factory_does_not_take_is_told_without_a_line_of_ours():
    with pytest.raises(UsageError, match=r"argument 'foo'\. Fix: check --arch and --arch-arg: it takes num_classes"):
        parse_architecture("hetcompress:resnet20", {"foo": 3}).build()


def test_a_factory_that_fails_elsewhere_is_told_by_its_own_line(tmp_path):
    spec = factory_file(tmp_path, "return nn.Conv2d(3, 8, 3, groups=2)")
    with pytest.raises(UsageError, match=r"divisible by groups \(mine.py, line 4\)\. Fix"):
        parse_architecture(spec).build()
