"""The contract of every registered shape family, and what is particular to each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetcompress.errors import UsageError
from hetcompress.shapes import SHAPE_FAMILIES, CentreShapes, FreeShapes, HetConvShapes, RigidShapes, build_family

SIZES = [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (2, 2), (5, 3), (4, 1)]
FAMILIES = sorted(SHAPE_FAMILIES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_masks_are_binary_and_sized(name, size):
    family = build_family(name)
    logits = torch.randn(5, 7, family.logits_per_group(size))
    masks = family.masks(logits, size)
    assert masks.shape == (5, 7, *size)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_positive_scores_choose_full_kernels_in_learnable_families(name, size):
    family = build_family(name)
    masks = family.masks(family.logits_of(torch.rand(4, 6, *size) + 0.01), size)
    assert bool((masks == 1).all()) == (family.learnable or size == (1, 1))


@pytest.mark.parametrize("name", [name for name in FAMILIES if build_family(name).learnable])
def test_gradient_reaches_logits(name):
    family = build_family(name)
    logits = (0.1 * torch.randn(3, 4, family.logits_per_group((3, 3)))).requires_grad_()
    (family.masks(logits, (3, 3)) * torch.randn(3, 4, 3, 3)).sum().backward()
    assert (logits.grad != 0).any(-1).all()


@pytest.mark.parametrize("name", [name for name in FAMILIES if build_family(name).learnable])
def test_price_only_ever_removes(name):
    family = build_family(name)
    logits = family.logits_of(torch.rand(6, 5, 3, 3))
    prices = (0.0, 0.2, 0.5, 0.8, 2.0)
    kept = [family.masks(family.priced(logits, price, (3, 3)), (3, 3)).sum().item() for price in prices]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 6 * 5 * 9
    assert kept[-1] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_arguments_rebuild_the_family(name):
    family = build_family(name)
    assert build_family(name, family.arguments()).arguments() == family.arguments()


def test_free_estimator_passes_one_inside_the_window_and_a_tenth_outside():
    logits = torch.tensor([[[0.5, -0.9, 1.5, -3.0]]], requires_grad=True)
    FreeShapes().masks(logits, (2, 2)).sum().backward()
    assert logits.grad.flatten().tolist() == pytest.approx([1, 1, 0.1, 0.1])


def test_rigid_estimator_is_centred_on_the_mean():
    logits = torch.zeros(1, 1, 15)
    logits[0, 0, 3] = 30.0  # the mean is 2, so that no logit lies within 1 of it
    logits.requires_grad_()
    weights = torch.randn(3, 3)
    (RigidShapes().masks(logits, (3, 3)) * weights).sum().backward()
    library = torch.stack(list(RigidShapes().library((3, 3)).values()))
    assert torch.allclose(logits.grad[0, 0], 0.1 * (library * weights).sum((1, 2)))


def test_rigid_has_the_papers_fifteen_shapes():
    library = RigidShapes().library((3, 3))
    drawn = {
        name: "/".join("".join("#" if t else "." for t in row) for row in shape) for name, shape in library.items()
    }
    assert drawn["empty"] == ".../.../..."
    assert drawn["centre"] == ".../.#./..."
    assert drawn["row"] == ".../###/..."
    assert drawn["antidiagonal"] == "..#/.#./#.."
    assert drawn["corner-tl"] == "##./##./..."
    assert drawn["half-right"] == ".##/.##/.##"
    assert drawn["full"] == "###/###/###"
    assert sorted(int(shape.sum()) for shape in library.values()) == sorted(
        [0, 1, 3, 3, 3, 3, 4, 4, 4, 4, 6, 6, 6, 6, 9]
    )


def test_libraries_of_small_kernels():
    assert list(RigidShapes().library((1, 1))) == ["empty", "full"]
    assert list(CentreShapes().library((1, 1))) == ["empty", "full"]
    assert list(CentreShapes().library((3, 3))) == ["empty", "centre", "full"]
    for size in SIZES:
        shapes = [tuple(shape.flatten().tolist()) for shape in RigidShapes().library(size).values()]
        assert len(shapes) == len(set(shapes)), size


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_hetconv_density_is_the_papers(parts):
    masks = HetConvShapes(parts).masks(torch.zeros(16, 32, 0), (3, 3))
    assert masks.mean().item() == pytest.approx(1 / parts + (1 - 1 / parts) / 9)
    # every input channel gets N / P whole kernels, and filter n has one at channel c where (c - n) mod P = 0
    assert (masks.sum((2, 3)) == 9).sum(0).tolist() == [16 // parts] * 32
    assert masks[3, 3 + parts].sum() == 9
    assert (masks[..., 1, 1] == 1).all()


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(UsageError, match=r"shape family 'rigit'.*did you mean 'rigid'\?"):
        build_family("rigit")
    with pytest.raises(UsageError, match="unexpected keyword argument 'part'"):
        build_family("hetconv", {"part": 4})
    with pytest.raises(UsageError, match="parts of family 'hetconv': expected an integer of at least 1, found 0"):
        build_family("hetconv", {"parts": 0})


@given(
    st.sampled_from(["centre", "whole", "rigid"]), st.integers(1, 3), st.integers(1, 70), st.integers(1, 20),
    st.floats(-0.5, 2),
)  # fmt: skip
def test_channels_of_a_block_decide_together(name, out_groups, channels, block, price):
    family = build_family(name, {"block": block})
    torch.manual_seed(channels * 100 + block)
    logits = family.logits_of(torch.rand(out_groups, channels, 3, 3))
    for row in logits:
        assert len(row.unique(dim=0)) <= -(-channels // block), "alike to the last digit"
    masks = family.masks(family.priced(logits, price, (3, 3)), (3, 3))
    for row in masks:
        counts = row.unique(dim=0, return_counts=True)[1]
        assert int((counts % block > 0).sum()) <= 1, "but for the last block, which is smaller, all are whole"
    if name == "whole":
        again = family.logits_of(2 * masks - 1)
        assert torch.equal(family.masks(again, (3, 3)), masks)
