"""Safetensors files of our own writing are what the library reads and would have written."""

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from hetcompress.errors import InputError
from hetcompress.tensor_files import NAMES, size_of_tensors, write_tensors

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def state_dicts(draw):
    names = draw(st.lists(st.text('aé.0"\\', min_size=1, max_size=5), max_size=4, unique=True))
    tensors = {}
    for name in names:
        dtype, shape = draw(st.sampled_from(sorted(NAMES, key=str))), draw(SHAPES)
        tensor = torch.randint(0, 2, shape).to(dtype)
        tensors[name] = tensor.transpose(0, -1) if draw(st.booleans()) and len(shape) > 1 else tensor
    return tensors


@given(state_dicts(), st.dictionaries(st.text("abé", min_size=1), st.text(), max_size=2))
def test_the_library_reads_what_was_written(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("tensors") / "file.safetensors"
    write_tensors(path, tensors, metadata)
    data = path.read_bytes()
    assert len(data) == size_of_tensors(tensors, metadata)
    found = load(data)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_bytes_are_those_of_the_library(tmp_path):
    torch.manual_seed(0)
    tensors = {"b.weight": torch.randn(3, 5), "a.count": torch.tensor(7), "shapes": torch.ones(3, dtype=torch.bool)}
    write_tensors(tmp_path / "file", tensors, {"format": "pt"})
    assert (tmp_path / "file").read_bytes() == save(tensors, metadata={"format": "pt"})


def test_a_view_is_written_without_what_lies_around_it(tmp_path):
    whole = torch.arange(100.0)
    write_tensors(tmp_path / "file", {"part": whole[10:13]})
    assert (tmp_path / "file").stat().st_size < 200
    assert load((tmp_path / "file").read_bytes())["part"].tolist() == [10, 11, 12]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_an_error_of_the_system():
    with pytest.raises(OSError, match="No space left"):
        write_tensors(Path("/dev/full"), {"w": torch.zeros(2 * io.DEFAULT_BUFFER_SIZE)})


def test_a_type_without_a_name_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"tensor w: expected one of .*float32.*, found torch.complex128. Fix: convert"
    ):
        write_tensors(tmp_path / "file", {"w": torch.zeros(2, dtype=torch.complex128)})
