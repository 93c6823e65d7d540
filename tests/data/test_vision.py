"""The sets of torchvision, through a stand-in with its documented interface."""

from __future__ import annotations

import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import load

CLASSES = ["zero", "one", "two"]


class FakeSet:
    """What the sets of torchvision have in common: root, a split, download, items (PIL image, target)."""

    calls: ClassVar[list[tuple[str, str, bool, bool]]] = []

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        self.calls.append((type(self).__name__, str(root), train, download))
        if not download and not (root / "here").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        if download:
            root.mkdir(parents=True, exist_ok=True)
            (root / "here").touch()
        self.data, self.targets, self.classes = self.content(train)

    def __len__(self):
        return len(self.data)


class FakeGray(FakeSet):
    @staticmethod
    def content(train):
        n = 20 if train else 5
        values = np.random.default_rng(train).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        return torch.from_numpy(values), torch.arange(n) % 3, CLASSES


class FakeColour(FakeSet):
    @staticmethod
    def content(train):
        n = 20 if train else 5
        values = np.random.default_rng(train).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        return values, [i % 3 for i in range(n)], CLASSES


class FakeCelebA:
    def __init__(self, root, split="train", target_type="attr", transform=None, target_transform=None, download=False):
        n, self.offset = {"train": (9, 0), "valid": (4, 100), "test": (2, 200)}[split]
        self.images = [Image.new("RGB", (178, 218), (self.offset + i, 0, 0)) for i in range(n)]
        self.root = root

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if (self.root / "corrupt.jpg").exists():
            return Image.open(self.root / "corrupt.jpg"), torch.zeros(40)
        return self.images[index].copy(), torch.zeros(40)


@pytest.fixture
def torchvision(monkeypatch):
    datasets = types.ModuleType("torchvision.datasets")
    datasets.MNIST = type("MNIST", (FakeGray,), {"calls": []})
    datasets.FashionMNIST = type("FashionMNIST", (FakeGray,), {"calls": []})
    datasets.CIFAR10 = type("CIFAR10", (FakeColour,), {"calls": []})
    datasets.CIFAR100 = type("CIFAR100", (FakeColour,), {"calls": []})
    datasets.CelebA = FakeCelebA
    module = types.ModuleType("torchvision")
    module.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return datasets


@pytest.mark.parametrize(
    "name, used, shape",
    [
        ("mnist", "MNIST", (1, 28, 28)),
        ("fashion-mnist", "FashionMNIST", (1, 28, 28)),
        ("cifar10", "CIFAR10", (3, 32, 32)),
        ("cifar100", "CIFAR100", (3, 32, 32)),
    ],
)
def test_sets_in_memory(torchvision, tmp_path, name, used, shape):
    splits = {split: load(name, split=split, root=tmp_path) for split in ("train", "validation", "all", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 18,
        "validation": 2,
        "all": 20,
        "test": 5,
    }
    for split, dataset in splits.items():
        data, targets, _ = getattr(torchvision, used).content(split != "test")
        source = {}
        for values, target in zip(np.asarray(data), targets):
            source[values.reshape(*shape[1:], -1).transpose(2, 0, 1).tobytes()] = int(target)
        assert dataset.image_shape == shape
        assert dataset.class_names == tuple(CLASSES)
        images, labels = dataset.tensors()
        assert images.is_contiguous()
        assert [source[image.numpy().tobytes()] for image in images] == labels.tolist()
    assert len({image.numpy().tobytes() for image in splits["all"].tensors()[0]}) == 20
    assert len(load(name, split="test", root=tmp_path, limit=3)) == 3


def test_downloads_only_what_is_missing(torchvision, tmp_path):
    load("cifar10", root=tmp_path / "new")
    load("cifar10", root=tmp_path / "new", split="test")
    folder = str(tmp_path / "new")
    assert torchvision.CIFAR10.calls == [
        ("CIFAR10", folder, True, False),
        ("CIFAR10", folder, True, True),
        ("CIFAR10", folder, False, False),
    ]


def test_celeba_keeps_its_splits(torchvision, tmp_path):
    for split, reds in {
        "train": range(9),
        "validation": range(100, 104),
        "all": [*range(9), *range(100, 104)],
        "test": range(200, 202),
    }.items():
        dataset = load("celeba", split=split, root=tmp_path)
        assert dataset.image_shape == (3, 218, 178)
        assert dataset.n_classes == 0
        images, labels = dataset.tensors()
        assert sorted(images[:, 0, 0, 0].tolist()) == list(reds)
        assert set(labels.tolist()) == {-1}
    small = load("celeba", split="all", root=tmp_path, size=64, channels=1, limit=11)
    assert small.image_shape == (1, 64, 64)
    assert len(small) == 11


def test_a_corrupt_face_is_named(torchvision, tmp_path):
    dataset = load("celeba", root=tmp_path)
    Image.new("RGB", (178, 218)).save(tmp_path / "corrupt.jpg")
    content = (tmp_path / "corrupt.jpg").read_bytes()
    (tmp_path / "corrupt.jpg").write_bytes(content[: len(content) - 200])
    with pytest.raises(ValueError, match=r"corrupt\.jpg' must be an image that PIL can decode"):
        dataset[0]


def test_without_torchvision_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("mnist", "fashion-mnist", "cifar10", "cifar100", "celeba"):
        with pytest.raises(ImportError, match=rf"'{name}' needs torchvision.*pip install 'fastgen-torch\[vision\]'"):
            load(name)


def test_a_torchvision_for_another_torch_is_reported(monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Broken("torchvision"))
    with pytest.raises(ImportError, match=r"fits the installed torch .*nms does not exist"):
        load("cifar10")


def test_a_failed_download_is_reported(torchvision, tmp_path):
    def refuse(self, root, download=False, **options):
        raise OSError("no route to host") if download else RuntimeError("not found")

    torchvision.MNIST.__init__ = refuse
    with pytest.raises(RuntimeError, match=r"could not download 'mnist'.*OSError: no route to host; put its files"):
        load("mnist", root=tmp_path)
