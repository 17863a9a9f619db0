"""What holds for every export target, on small nets of the forms that lowering makes."""

import dataclasses
import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetcompress.errors import HetCompressError, InputError, UsageError, VerificationError
from hetcompress.files import sha256_of
from hetcompress.targets import EXPORT_TARGETS, ExportTarget, Truth, export_model, verify

IMAGE = (4, 8, 7)


class Residual(nn.Module):
    """conv, batch norm, identity shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(x + self.norm(self.conv(x))).mean((2, 3)))


class Branches(nn.Module):
    """A 1x1 over all channels plus a 3x3 over gathered ones, asymmetric padding, a group conv."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.spatial = nn.Conv2d(4, 8, 1), nn.Conv2d(2, 8, (3, 2), bias=False)
        self.group, self.head = nn.Conv2d(8, 8, 3, groups=2, stride=2), nn.Linear(8, 3)
        self.register_buffer("channels", torch.tensor([3, 0]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.point(x) + self.spatial(F.pad(x.index_select(1, self.channels), (1, 0, 2, 0)))
        return self.head(self.drop(F.relu(self.group(F.relu(y)))).mean((2, 3)))


class Tied(nn.Module):
    """One weight under two names, and one that is a view of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.head.weight = nn.Parameter(torch.randn(6, 4)[::2])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


NETS = (Residual, Branches, Tied)


def build(net: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return net()


def images(count: int) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(1))


class Broken(ExportTarget):
    """Adds to every output."""

    name, suffix = "broken", ".bin"

    def __init__(self, change: float = 0.01) -> None:
        self.change = change

    def write(self, model, example, path):
        path.write_bytes(b"new")
        return {}

    def open(self, path, structure=None, /):
        return lambda x: structure.eval()(x).detach() + self.change


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(EXPORT_TARGETS._entries, "broken", Broken)
    return "broken"


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", list(EXPORT_TARGETS))
def test_the_file_computes_what_the_model_does(name: str, net: type[nn.Module], tmp_path: Path) -> None:
    model = build(net).train()
    target = EXPORT_TARGETS[name]()
    path = tmp_path / f"model{target.suffix}"
    before = {key: value.clone() for key, value in model.state_dict().items()}

    exported = export_model(name, model, images(1), path, truth=Truth.of(model, images(1), images(7)))

    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert exported.bytes == path.stat().st_size
    assert exported.batch_sizes == (1, 2, 3, 7)
    assert exported.argmax_agreement == 1
    assert 0 <= exported.relative_difference < 1e-5
    assert list(tmp_path.iterdir()) == [path]
    runner = target.open(path, build(net))
    with torch.no_grad():
        for count in (1, 3, 8):
            torch.testing.assert_close(runner(images(count)), model.eval()(images(count)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(EXPORT_TARGETS))
def test_the_file_tells_nothing_of_this_machine(name: str, tmp_path: Path) -> None:
    model = build(Residual)
    path = tmp_path / "model.bin"
    export_model(name, model, images(1), path)
    content = path.read_bytes()
    for trace in (b".py", b"/tmp", b"File ", b"site-packages", str(Path.home()).encode() + b"/", __name__.encode()):
        assert trace not in content, trace
    other = tmp_path / "elsewhere" / "copy.bin"
    export_model(name, model, images(4), other)
    if name != "pt2":  # torch gives each archive a serial number
        assert sha256_of(other) == sha256_of(path)


@pytest.mark.parametrize("name", list(EXPORT_TARGETS))
def test_full_disk_is_one_line_and_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    # a real refusal by the kernel: no file may grow beyond 100 bytes
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(HetCompressError) as caught:
            export_model(name, build(Residual), images(1), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_space_left_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HetCompressError, match="No space left on device") as caught:
        export_model("onnx", build(Residual), images(1), path)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"


def test_a_wrong_file_never_gets_the_name(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(VerificationError, match=r"within 0\.0001.*found a difference") as caught:
        export_model(broken, build(Residual), images(1), path)
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert export_model(broken, build(Residual), images(1), path, tolerance=10.0).max_difference == pytest.approx(0.01)
    assert path.read_bytes() == b"new"


def test_relative_difference_is_to_the_largest_output() -> None:
    model = nn.Flatten()
    found = verify(
        lambda x: x.flatten(1) + 0.5, Truth.of(model, images(1), 100 * images(3)), where="here", tolerance=1.0
    )
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, *IMAGE, generator=generator) for size in (1, 2, 3)]
    assert found.max_difference == pytest.approx(0.5, abs=1e-4)
    assert found.relative_difference == pytest.approx(
        0.5 / min(float(batch.abs().max()) for batch in batches), rel=1e-5
    )
    assert found.images == 9


def test_agreement_counts_the_images_with_the_same_class() -> None:
    flipped = verify(lambda x: -x.flatten(1), Truth.of(nn.Flatten(), images(1)), where="here", tolerance=3.0)
    assert flipped.argmax_agreement == 0
    nothing = Truth.of(nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0)), images(1))
    zero = verify(lambda x: x.flatten(1) * 0, nothing, where="here")
    assert zero.relative_difference == 0


@pytest.mark.parametrize(
    ("candidate", "text"),
    [
        (lambda x: x.flatten(1)[:, :5], "outputs of shape"),
        (lambda x: x.flatten(1)[:1], "for a batch of 2"),
        (lambda x: x.flatten(1) * torch.nan, "nan or infinity from the exported file"),
        (lambda x: x.flatten(1) / 0, "nan or infinity from the exported file"),
    ],
)
def test_outputs_of_another_form_are_refused(candidate, text: str) -> None:
    with pytest.raises(VerificationError, match=text):
        verify(candidate, Truth.of(nn.Flatten(), images(1)), where="here", tolerance=1e9)


def test_a_file_is_held_against_the_model_that_it_stands_for(tmp_path: Path) -> None:
    model, other = build(Residual), build(Residual)
    nn.init.constant_(other.head.bias, 10.0)
    path = tmp_path / "model.safetensors"
    with pytest.raises(VerificationError, match=r"export --safetensors: expected outputs within 0.0001"):
        export_model("safetensors", model, images(1), path, truth=Truth.of(other, images(1)))
    assert not path.exists()


def test_a_model_of_two_outputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    with pytest.raises(UsageError, match="Two: expected a model that returns one tensor, found tuple"):
        Truth.of(Two(), images(1))


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    model = build(Residual)
    nn.init.constant_(model.head.bias, torch.nan)
    with pytest.raises(VerificationError, match="nan or infinity from the model itself"):
        export_model("safetensors", model, images(1), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_traced_is_one_line(tmp_path: Path) -> None:
    class DependsOnValues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    class OneBatchSize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1)

    for model in (DependsOnValues(), OneBatchSize()):
        for name in ("onnx", "pt2"):
            with pytest.raises(
                HetCompressError, match=f"model {type(model).__name__}: expected one that torch"
            ) as caught:
                export_model(name, model, images(2), tmp_path / "model.bin")
            assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unknown_target_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        export_model("onx", build(Residual), images(1), tmp_path / "model")


@pytest.mark.parametrize("name", list(EXPORT_TARGETS))
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"\x00" * 1000])
def test_a_broken_file_is_bad_input(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.bin"):
        EXPORT_TARGETS[name]().open(path, build(Residual))


def test_results_are_plain_values(tmp_path: Path) -> None:
    exported = export_model("safetensors", build(Residual), images(1), tmp_path / "model.safetensors")
    values = exported.to_json()
    assert values["path"] == str(exported.path)
    assert values["details"]["format"] == 1
    assert set(values) == {field.name for field in dataclasses.fields(exported)}


def test_a_program_runs_without_hetcompress(tmp_path: Path) -> None:
    model = build(Branches)
    export_model("pt2", model, images(1), tmp_path / "model.pt2")
    torch.save({"images": images(3), "scores": model.eval()(images(3)).detach()}, tmp_path / "expected.pt")
    code = """
import sys; sys.modules["hetcompress"] = None
import torch
expected = torch.load("expected.pt", weights_only=True)
scores = torch.export.load("model.pt2").module()(expected["images"])
torch.testing.assert_close(scores, expected["scores"], rtol=1e-5, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
