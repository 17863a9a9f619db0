"""Memory is given back, and no more of it is held than is said."""

import gc
import weakref

import pytest
import torch
from torch import nn

from hetcompress import graphs, memory
from hetcompress.flow import Flow
from hetcompress.lowering import choice, lower
from hetcompress.memory import frugal, release
from hetcompress.nn import HetConv2d


def test_a_cycle_is_collected():
    model = nn.Linear(2, 2)
    model.itself = [model]
    alive = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert alive() is not None, "nothing else collects it meanwhile"
        release()
    finally:
        gc.enable()
    assert alive() is None


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_outermost_block_restores_the_allocator(monkeypatch, by_hand):
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: Library())
    monkeypatch.setattr(memory.sys, "platform", "linux")
    for name in memory.SET_BY_HAND:
        monkeypatch.delenv(name, raising=False)
    if by_hand:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")

    def fail():
        with frugal():
            with frugal():
                assert calls == ([] if by_hand else [(-3, memory.LARGE), (-1, 2 * memory.LARGE)])
            assert len(calls) == (0 if by_hand else 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert calls[2:] == ([] if by_hand else [(-3, memory.ADAPTED), (-1, 2 * memory.ADAPTED)])


class Watching(nn.Module):
    """Counts which of the tensors that went through before are still there."""

    def __init__(self):
        super().__init__()
        self.seen, self.most = [], 0

    def forward(self, x):
        self.seen.append(weakref.ref(x))
        self.most = max(self.most, sum(one() is not None for one in self.seen))
        return x


def test_a_run_is_followed_without_keeping_its_images():
    watching = Watching()
    layers = [layer for _ in range(5) for layer in (nn.Conv2d(3, 3, 1), watching, nn.Sigmoid(), watching)]
    Flow.of(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 8, 8))
    assert len(watching.seen) == 10
    assert watching.most <= 2


def test_a_layer_is_gone_before_the_next_one_is_lowered(monkeypatch):
    layers = [HetConv2d.from_conv2d(nn.Conv2d(4, 4, 3), torch.rand(1, 4, 3, 3) < 0.5, "all", 1) for _ in range(4)]
    for layer in layers:
        layer.kernel_shapes[:, :, 1, 1] = True
    seen, alive = [], []

    def noted(layer, rules):
        alive.append(sum(one() is not None for one in seen))
        seen.append(weakref.ref(layer))
        return forms_of(layer, rules)

    forms_of = choice.forms_of
    monkeypatch.setattr(choice, "forms_of", noted)
    lower(nn.Sequential(*layers, nn.Flatten()), torch.zeros(1, 4, 12, 12))
    assert len(alive) == 4
    assert max(alive) <= 1, "the one before, at most"


def test_nothing_keeps_the_weights_of_an_exported_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    weight = weakref.ref(model[0].weight)
    graphs.onnx_bytes(model, torch.zeros(1, 3, 6, 6))
    del model
    release()
    assert weight() is None
