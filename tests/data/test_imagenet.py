"""Downsampled ImageNet from folders that the tests make."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import load

SIZES = {f"Imagenet32_train_npz/train_data_batch_{i}.npz": n for i, n in ((1, 7), (2, 5), (10, 8))}


@pytest.fixture
def batches(tmp_path):
    """Three training batches and the validation batch; red of image k of batch i is 20 i + k and so is its label."""
    for path, n in {**SIZES, "Imagenet32_val_npz/val_data.npz": 4}.items():
        number = 11 if "val" in path else int(path.rsplit("_", 1)[1][:-4])
        reds = 20 * number + np.arange(n)
        data = np.zeros((n, 3, 32, 32), np.uint8)
        data[:, 0] = reds[:, None, None]
        data[:, 1, 3, 9] = 200
        file = tmp_path / "imagenet32" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, data=data.reshape(n, -1), labels=reds, mean=np.zeros(3072))
    return tmp_path


def test_batches(batches):
    reds = [20 * number + k for number, n in ((1, 7), (2, 5), (10, 8)) for k in range(n)]
    found = {split: load("imagenet32", root=batches, split=split) for split in ("train", "validation", "all", "test")}
    assert {split: len(dataset) for split, dataset in found.items()} == {
        "train": 18,
        "validation": 2,
        "all": 20,
        "test": 4,
    }
    for split, dataset in found.items():
        images, labels = dataset.tensors()
        assert dataset.image_shape == (3, 32, 32)
        assert dataset.n_classes == 1000
        assert torch.equal(images[:, 0, 0, 0].long(), labels + 1)  # each image has its own label, from 0
        assert (images[:, 1, 3, 9] == 200).all()
        assert sorted((labels + 1).tolist()) == ([220, 221, 222, 223] if split == "test" else sorted(reds)) or (
            split in ("train", "validation")
        )
    assert torch.equal(
        found["all"].tensors()[1], torch.cat([found[split].tensors()[1] for split in ("train", "validation")])
    )
    small = load("imagenet32", root=batches, size=16, channels=1, limit=6)
    assert small.image_shape == (1, 16, 16)
    assert torch.equal(small.tensors()[1], found["train"].tensors()[1][:6])


def test_folders_of_images(tmp_path):
    for folder, n in (("train_64x64", 10), ("valid_64x64", 3)):
        (tmp_path / "imagenet64" / folder).mkdir(parents=True)
        for i in range(n):
            picture = Image.new("RGB", (64, 64), (i + 100 * (n == 3), 0, 0))
            picture.save(tmp_path / "imagenet64" / folder / f"{i}.png")
    found = {split: load("imagenet64", root=tmp_path, split=split) for split in ("train", "validation", "test")}
    assert [len(dataset) for dataset in found.values()] == [9, 1, 3]
    assert found["test"].tensors()[0][:, 0, 0, 0].min() >= 100
    assert found["train"].n_classes == 0


def test_pickles_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    folder = tmp_path / "imagenet32"
    folder.mkdir()
    (folder / "train_data_batch_1").write_bytes(pickle.dumps({"data": Trap(), "labels": [1]}))
    with pytest.raises(ValueError, match=r"train_data_batch_1', a pickle, which is not read"):
        load("imagenet32", root=tmp_path)
    objects = np.array([Trap()], dtype=object)
    np.savez(folder / "train_data_batch_2.npz", data=objects, labels=np.array([1]))
    with pytest.raises(ValueError, match=r"train_data_batch_2\.npz' must be an \.npz with plain arrays"):
        load("imagenet32", root=tmp_path, split="all")


def test_broken_batches_are_named(batches):
    file = batches / "imagenet32" / "Imagenet32_train_npz" / "train_data_batch_2.npz"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train_data_batch_2\.npz' must be an \.npz"):
        load("imagenet32", root=batches)
    np.savez(file, labels=np.arange(1, 6))
    with pytest.raises(ValueError, match=r"train_data_batch_2\.npz.*KeyError"):
        load("imagenet32", root=batches)
    np.savez(file, data=np.zeros((5, 12288), np.uint8), labels=np.arange(1, 6))
    with pytest.raises(ValueError, match=r"must be uint8 \[5, 3072\]; got uint8 \[5, 12288\]"):
        load("imagenet32", root=batches)
    np.savez(file, data=np.zeros((5, 3072), np.uint8), labels=np.arange(5))
    with pytest.raises(ValueError, match=r"labels of 'imagenet32' must be in 1\.\.1000; got 0"):
        load("imagenet32", root=batches, split="all")


def test_a_missing_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imagenet64.*train_data_batch_\*\.npz.*train_64x64.*image-net\.org"):
        load("imagenet64", root=tmp_path)


def test_a_split_without_its_batches_says_which_are_missing(batches):
    (batches / "imagenet32" / "Imagenet32_val_npz" / "val_data.npz").unlink()
    assert len(load("imagenet32", root=batches)) == 18
    with pytest.raises(FileNotFoundError, match=r"split 'test' of 'imagenet32' needs val_data\*\.npz"):
        load("imagenet32", root=batches, split="test")
