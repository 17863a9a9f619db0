"""Data sources: pure functions of seed, epoch and batch; clear words for what is broken."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hetcompress.data import Augmentation, open_data
from hetcompress.data.augmentation import Normalisation
from hetcompress.errors import InputError, UsageError
from hetcompress.evaluation import evaluate

SPEC = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "image_size": (3, 32, 32)}


def images(n=6, size=8):
    return torch.arange(n * 3 * size * size).remainder(251).add(1).to(torch.uint8).view(n, 3, size, size)


@given(st.integers(0, 4), st.booleans(), st.integers(0, 1000))
def test_every_crop_is_a_window_of_the_padded_image(pad, flip, seed):
    source = images()
    out = Augmentation(pad, flip)(source, torch.Generator().manual_seed(seed))
    assert out.shape == source.shape
    padded = torch.nn.functional.pad(source, (pad,) * 4)
    for one, whole in zip(out, padded, strict=True):
        windows = [whole[:, y : y + 8, x : x + 8] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        windows += [window.flip(2) for window in windows] if flip else []
        assert any(torch.equal(one, window) for window in windows)


def test_augmentation_differs_between_images_and_leaves_its_input():
    source = images(1).expand(64, -1, -1, -1).contiguous()
    before = source.clone()
    out = Augmentation(2, True)(source, torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in out}) > 16
    assert torch.equal(source, before)


def test_cutout_blanks_a_square():
    out = Augmentation(0, False, cutout=4)(images(64), torch.Generator().manual_seed(0))
    blank = (out == 0).all(1).flatten(1).sum(1)
    assert blank.max() == 16
    assert blank.min() >= 4


@pytest.mark.parametrize("options", [{"crop_padding": -1}, {"cutout": -2}])
def test_senseless_augmentation(options):
    with pytest.raises(UsageError, match="expected a number of at least 0"):
        Augmentation(**options)


def test_normalisation():
    out = Normalisation((0.5, 0.25), (0.5, 0.25))(torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1))
    assert out.flatten().tolist() == pytest.approx([-1.0, 3.0])


def digits():
    return open_data("digits", root=None, mean=(0.3,), std=(0.4,), image_size=(1, 8, 8), workers=0)


@pytest.mark.parametrize("start", [1, 5, 21])
def test_starting_later_gives_the_same_batches(start):
    pytest.importorskip("sklearn")
    data = digits()
    whole = list(data.train_batches(64, seed=3, epoch=2))
    later = list(data.train_batches(64, seed=3, epoch=2, start=start))
    assert len(whole) == data.train_size // 64
    assert len(later) == len(whole) - start
    for (a, b), (c, d) in zip(whole[start:], later, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    other = next(iter(data.train_batches(64, seed=3, epoch=3)))
    assert not torch.equal(whole[0][0], other[0])


def test_digits_are_real_and_split():
    pytest.importorskip("sklearn")
    data = digits()
    test = list(data.test_batches(100))
    assert sum(len(labels) for _, labels in test) + data.train_size == 1797
    assert len(data.classes) == 10
    assert min(torch.cat([labels for _, labels in test]).bincount()) >= 34


def tree(root, *, splits=("train", "test"), classes=("cat", "dog"), count=4, size=32):
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((size, size, 3), 40 * (label + 1) + index, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_cifar_from_a_tree_of_images(tmp_path, inside):
    folder = tree(tmp_path / "cifar10")
    data = open_data("cifar10", root=folder if inside else tmp_path, **SPEC)
    assert data.classes == ("cat", "dog")
    assert data.test_note == "8 of 10,000 test images"
    batch, labels = next(iter(data.test_batches(8)))
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert batch[0].unique().item() == pytest.approx((40 / 255 - 0.5) / 0.25)


def test_cifar_from_the_real_tree_of_the_environment(monkeypatch, tmp_path):
    tree(tmp_path / "cifar10")
    monkeypatch.setenv("HETCOMPRESS_DATA", str(tmp_path))
    assert open_data("cifar10", root=None, **SPEC).train_size == 8


def test_missing_data_says_where_it_looked(tmp_path):
    with pytest.raises(
        InputError, match=r"expected one of .*cifar10, .*cifar-10-batches-py.*--data-root.*--download"
    ) as error:
        open_data("cifar10", root=tmp_path / "nowhere", **SPEC)
    assert error.value.exit_code == 3


def test_broken_torchvision_files(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputError, match="expected torchvision's files, found Dataset not found or corrupted"):
        open_data("cifar10", root=tmp_path, **SPEC)


def test_corrupt_image_and_empty_class_are_named(tmp_path):
    tree(tmp_path / "cifar10")
    (tmp_path / "cifar10" / "test" / "dog" / "2.png").write_bytes(b"not an image")
    data = open_data("cifar10", root=tmp_path, **SPEC)
    with pytest.raises(InputError, match=r"image .*dog/2\.png: expected a readable image"):
        list(data.test_batches(4))
    (tmp_path / "cifar10" / "train" / "emu").mkdir()
    with pytest.raises(InputError, match=r"train/emu: expected images of this class, found none"):
        open_data("cifar10", root=tmp_path, **SPEC)


def test_image_of_another_size_is_named(tmp_path):
    tree(tmp_path / "cifar10", size=16)
    with pytest.raises(InputError, match=r"cat/0\.png: expected 32 x 32 pixels, found 16 x 16"):
        list(open_data("cifar10", root=tmp_path, **SPEC).test_batches(4))


@pytest.mark.parametrize("test_name", ["val", "validation", "test"])
def test_image_folder(tmp_path, test_name):
    tree(tmp_path, splits=("train", test_name), size=40)
    data = open_data("imagefolder", root=tmp_path, workers=0, **SPEC)
    whole, later = (list(data.train_batches(2, seed=1, epoch=0, start=start)) for start in (0, 2))
    assert len(whole) == 4
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[2:], later, strict=True))
    assert whole[0][0].shape == (2, 3, 32, 32)
    constant = evaluate(lambda batch: torch.eye(2)[[0] * len(batch)], data.test_batches(3))
    assert (constant.correct, constant.total, constant.percent) == (4, 8, 50.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_an_image_folder_leaves_random_numbers_alone(tmp_path, workers):
    # a resumed run opens it once more than one that was not stopped, and must end with the same bits
    tree(tmp_path, splits=("train", "val"), size=40)
    data = open_data("imagefolder", root=tmp_path, workers=workers, **SPEC)
    before = torch.get_rng_state()
    assert [*data.train_batches(2, seed=1, epoch=0), *data.test_batches(2)]
    assert torch.equal(torch.get_rng_state(), before)


def test_image_folder_errors(tmp_path):
    with pytest.raises(InputError, match=r"expected one of .*train, found none"):
        open_data("imagefolder", root=tmp_path, **SPEC)
    tree(tmp_path, splits=("train",))
    with pytest.raises(InputError, match=r"expected one of .*val, .*validation, .*test, found none"):
        open_data("imagefolder", root=tmp_path, **SPEC)
    tree(tmp_path, splits=("val",), classes=("cat", "cow"))
    with pytest.raises(InputError, match="expected the same classes in train and val, found cow, dog in only one"):
        open_data("imagefolder", root=tmp_path, **SPEC)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_in_a_worker_is_named(tmp_path, workers):
    tree(tmp_path, splits=("train", "val"))
    (tmp_path / "val" / "cat" / "1.png").write_bytes(b"nothing")
    data = open_data("imagefolder", root=tmp_path, workers=workers, **SPEC)
    with pytest.raises(InputError, match=r"^image .*cat/1\.png: expected a readable image, found [^\n]*remove it$"):
        list(data.test_batches(4))


@pytest.mark.parametrize(
    ("augment", "pixels", "rows"), [({}, {0}, {0}), ({"cutout": 8}, {64}, {0}), ({"crop_padding": 3}, None, {1, 2, 3})]
)
def test_augmentation_of_an_image_folder(tmp_path, augment, pixels, rows):
    tree(tmp_path, splits=("train", "val"), count=8, size=40)
    data = open_data("imagefolder", root=tmp_path, workers=0, augment={"flip": False, **augment}, **SPEC)
    seen = torch.cat([images for images, _ in data.train_batches(4, seed=1, epoch=0)])
    black = (seen == -2).all(1)  # (0 - mean) / std; no image of the tree has a black pixel
    assert int(black.all(2).sum(1).max()) in rows
    assert pixels is None or int(black.flatten(1).sum(1).max()) in pixels
    assert not (torch.cat([images for images, _ in data.test_batches(4)]) == -2).any()


def test_one_option_leaves_the_rest_of_a_sources_own_augmentation():
    pytest.importorskip("sklearn")
    plain = open_data("digits", root=None, mean=(0.3,), std=(0.4,), image_size=(1, 8, 8))
    same = open_data("digits", root=None, mean=(0.3,), std=(0.4,), image_size=(1, 8, 8), augment={"cutout": 0})
    for (a, _), (b, _) in zip(*(data.train_batches(64, seed=3, epoch=2) for data in (plain, same)), strict=True):
        assert torch.equal(a, b)


def test_negative_workers():
    with pytest.raises(UsageError, match="--workers: expected a number of at least 0, found -1"):
        open_data("digits", root=None, mean=(0.3,), std=(0.4,), image_size=(1, 8, 8), workers=-1)


def test_evaluation_restores_the_mode():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(4, 2))
    model[1].eval()
    result = evaluate(model, [(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))])
    assert result.total == 3
    assert model.training
    assert not model[1].training
