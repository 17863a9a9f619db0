"""Reading checkpoints: every layout, and everything that is not one."""

import argparse
import pickle
import zipfile
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from hetcompress.errors import InputError
from hetcompress.models import MODELS, load_model, read_state_dict
from hetcompress.models.pickle_globals import pickle_globals

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}


def same(found, expected=WEIGHTS):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin"])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net"])
def test_layouts(tmp_path, suffix, key):
    path = tmp_path / f"model{suffix}"
    torch.save(WEIGHTS if key is None else {key: WEIGHTS, "epoch": 3, "best_prec1": 91.7}, path)
    assert same(read_state_dict(path))


def test_averaged_weights_are_taken_on_request(tmp_path):
    path = tmp_path / "model.pt"
    averaged = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"state_dict": WEIGHTS, "state_dict_ema": averaged}, path)
    assert same(read_state_dict(path))
    assert same(read_state_dict(path, prefer_ema=True), averaged)


@given(st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4))
def test_prefixes_are_stripped_however_nested(tmp_path_factory, prefixes):
    path = tmp_path_factory.mktemp("prefix") / "model.pt"
    wrapped = {"".join(prefixes) + name: tensor for name, tensor in WEIGHTS.items()}
    torch.save({"state_dict": {**wrapped, "n_averaged": torch.tensor(4)}}, path)
    assert same(read_state_dict(path))


def test_safetensors_and_namespaces(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert same(read_state_dict(tmp_path / "model.safetensors"))
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, tmp_path / "model.pt")
    assert same(read_state_dict(tmp_path / "model.pt"))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("legacy", [False, True])
def test_no_pickle_runs_without_consent(tmp_path, legacy):
    path, trace = tmp_path / "model.pt", tmp_path / "exploded"
    torch.save({"state_dict": WEIGHTS, "extra": Bomb(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        InputError, match=r"a pickle that needs .*open.*torch\.save\(model\.state_dict\(\).*--trust-pickle"
    ) as error:
        read_state_dict(path)
    assert error.value.exit_code == 3
    assert not trace.exists()


def test_whole_module_only_with_trust(tmp_path):
    path = tmp_path / "model.pt"
    module = nn.Linear(3, 2)
    torch.save(module, path)
    with pytest.raises(InputError, match=r"a pickle that needs torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(path)
    assert same(read_state_dict(path, trust_pickle=True), module.state_dict())


def broken_zip(path):
    torch.save(WEIGHTS, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(entry for entry in archive.infolist() if "/data/0" in entry.filename)
    start = data.find(WEIGHTS["a.weight"].numpy().tobytes(), info.header_offset)
    data[start + 5] ^= 1
    path.write_bytes(data)


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "found an empty file"),
    "web page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>"), "found a web page"),
    "lfs": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
        "found a git-lfs pointer",
    ),
    "text": (lambda path: path.write_bytes(b"hello, world\n" * 9), "expected a (readable )?checkpoint"),
    "flipped bit": (broken_zip, "found a wrong checksum in .*data/0"),
    "optimizer": (lambda path: torch.save({"optimizer": {"lr": 1}}, path), "expected a state dict, plain or under"),
    "list": (lambda path: torch.save([1, 2], path), "expected a state dict.*found list"),
    "nan": (lambda path: torch.save({"w": torch.tensor([1.0, float("nan")])}, path), "found NaN or infinity in w"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_files_are_one_clear_line(tmp_path, kind):
    path = tmp_path / "model.pt"
    make, message = BAD[kind]
    make(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=message) as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, share, kind):
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    weights = {"w": torch.randn(64, 64)}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"model\.(pt|safetensors): expected"):
        read_state_dict(path)


def test_a_text_is_called_one(tmp_path):
    path = tmp_path / "text.pt"
    for text in ("hello\n", "# größer\r\n", "import torch\nx = 1"):
        path.write_bytes(text.encode())
        with pytest.raises(InputError, match=r"found a text\. Fix: "):
            read_state_dict(path)


def test_what_is_neither_is_named_without_the_number_of_a_byte(tmp_path):
    path = tmp_path / "noise.pt"
    path.write_bytes(b"\xff\x01noise\n")
    with pytest.raises(InputError, match=r"found an unreadable or truncated file\. Fix"):
        read_state_dict(path)


def test_an_error_without_words_is_named_alone(tmp_path, monkeypatch):
    def end(*_, **__):
        raise EOFError

    torch.save(WEIGHTS, tmp_path / "model.pt")
    monkeypatch.setattr(torch, "load", end)
    with pytest.raises(InputError, match=r"found an unreadable or truncated file\. Fix"):
        read_state_dict(tmp_path / "model.pt")


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"found no such file.*did you mean 'model\.pt'\?"):
        read_state_dict(tmp_path / "modle.pt")
    with pytest.raises(InputError, match="found a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_raw_pickles_are_refused_by_name(tmp_path, protocol):
    path, trace = tmp_path / "model.bin", tmp_path / "exploded"
    content = {"state_dict": dict(WEIGHTS), "first": Bomb(trace), "half": Fraction(1, 2), "again": Bomb(trace)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match=r"a pickle that needs .*fractions\.Fraction"):
        read_state_dict(path)
    assert not trace.exists()
    assert {name.rpartition(".")[2] for name in pickle_globals(path)} >= {"open", "Fraction"}
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(InputError):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("file", "depth", "parameters"), [("resnet20-12fca82f.th", 20, 269_722), ("resnet56-4bfd9763.th", 56, 853_018)]
)
def test_public_checkpoints(shared, file, depth, parameters):
    loaded = load_model(shared / file)
    assert loaded.architecture.spec == f"hetcompress:resnet{depth}"
    assert loaded.input_spec == MODELS[f"resnet{depth}"].input_spec
    assert sum(p.numel() for p in loaded.model.parameters()) == parameters
    assert loaded.sha256.startswith(file.partition("-")[2].removesuffix(".th"))


def test_numbers_beside_a_model_are_not_taken_for_it(tmp_path):
    beside = {"best_acc": torch.tensor(93.1), "epoch": torch.tensor(7), "lr": torch.tensor(0.1)}
    torch.save({"model": WEIGHTS, **beside}, tmp_path / "model.pt")
    assert read_state_dict(tmp_path / "model.pt").keys() == WEIGHTS.keys()
