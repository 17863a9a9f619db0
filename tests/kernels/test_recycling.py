"""Memory of large outputs: used again when the last tensor is gone, and not before."""

import threading

import pytest
import torch
from torch import nn

from hetcompress.kernels import VectorBlockConv2d, recycling
from hetcompress.kernels.recycling import LARGE, new_output


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch):
    monkeypatch.setattr(recycling, "_BLOCKS", recycling._Blocks())


def test_memory_of_what_is_gone_is_used_again():
    first = new_output((LARGE, 2))
    place = first.data_ptr()
    del first
    assert new_output((2, LARGE)).data_ptr() == place
    assert new_output((3, LARGE)).data_ptr() != place, "of that size alone"


def test_memory_that_any_tensor_sees_is_left_alone():
    first = new_output((LARGE,)).fill_(1)
    view = first[10:20].detach()
    place = first.data_ptr()
    del first
    other = new_output((LARGE,)).fill_(2)
    assert other.data_ptr() != place
    assert view.eq(1).all()


def test_what_follows_may_write_in_place():
    assert not new_output((LARGE, 2))._is_view()
    layer = VectorBlockConv2d.from_pruned(nn.Conv2d(1, 4, 1), 4)
    assert layer(torch.randn(1, 1, 1, LARGE)).relu_().requires_grad


def test_small_outputs_are_ordinary_tensors():
    output = new_output((2, 3))
    assert output.shape == (2, 3)
    assert output.untyped_storage().resizable()


def test_little_memory_is_kept(monkeypatch):
    monkeypatch.setattr(recycling, "KEPT", LARGE)
    outputs = [new_output((LARGE,)) for _ in range(3)]
    outputs.clear()
    assert recycling._BLOCKS.elements == LARGE


def test_threads_share_nothing_that_is_in_use():
    wrong = []

    def work(number):
        for _ in range(50):
            output = new_output((LARGE,)).fill_(number)
            if not output.eq(number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_layers_that_were_made_in_inference_mode_use_memory_again():
    with torch.inference_mode():
        layer = VectorBlockConv2d.from_pruned(nn.Conv2d(1, 4, 1), 4)
        first = layer(torch.randn(1, 1, 1, LARGE))
        place = first.data_ptr()
        del first
        assert layer(torch.randn(1, 1, 1, LARGE)).data_ptr() == place
