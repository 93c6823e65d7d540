"""A folder of images as a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import folder as folder_module
from fastgen.data import load, read_image

MANY = {f"{i:02d}.png": i for i in range(12)}


def test_images_and_order(make_folder, monkeypatch):
    folder = make_folder(MANY)
    dataset = load(folder, split="all")
    assert (dataset.name, len(dataset), dataset.image_shape, dataset.n_classes) == (
        "images",
        12,
        (3, 6, 6),
        0,
    )
    images, labels = dataset.tensors()
    assert labels.tolist() == [-1] * 12
    wanted = {read_image(folder / name).numpy().tobytes() for name in MANY}
    assert {image.numpy().tobytes() for image in images} == wanted
    listing = folder_module._walk  # the same whatever order the file system lists the files in
    monkeypatch.setattr(folder_module, "_walk", lambda *arguments: reversed(list(listing(*arguments))))
    assert torch.equal(load(str(folder), split="all").tensors()[0], images)


def test_splits_of_a_folder(make_folder):
    folder = make_folder(MANY)
    parts = {
        split: [image.numpy().tobytes() for image, _ in load(folder, split=split, validation_fraction=0.25)]
        for split in ("train", "validation", "all")
    }
    assert (len(parts["train"]), len(parts["validation"])) == (9, 3)
    assert parts["all"] == parts["train"] + parts["validation"]
    assert len(set(parts["all"])) == 12


def test_subfolders_are_classes(make_folder):
    files = {"dog/1.png": 1, "cat/2.png": 2, "cat/deep/er/3.PNG": 3, "dog/4.png": 4}
    folder = make_folder(files)
    dataset = load(folder, split="all")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.n_classes == 2
    by_image = {image.numpy().tobytes(): label for image, label in dataset}
    for name in files:
        label = by_image[read_image(folder / name).numpy().tobytes()]
        assert dataset.class_names[label] == name.split("/")[0]


def test_images_beside_the_subfolders_make_the_set_unlabelled(make_folder):
    dataset = load(make_folder({"cat/1.png": 1, "2.png": 2}), split="all")
    assert len(dataset) == 2
    assert dataset.n_classes == 0
    assert dataset.tensors()[1].tolist() == [-1, -1]


def test_hidden_and_other_files_are_skipped(make_folder):
    folder = make_folder({"a.png": 1, "b.png": 2, ".hidden.png": 3, ".cache/c.png": 4})
    (folder / "notes.txt").write_text("no image")
    (folder / "._a.png").write_bytes(b"resource fork")
    assert len(load(folder, split="all")) == 2


def test_links_are_followed_without_going_round(make_folder, tmp_path):
    folder = make_folder({"a/1.png": 1})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(elsewhere / "2.png")
    os.symlink(elsewhere, folder / "b")
    os.symlink(folder, folder / "a" / "round")
    dataset = load(folder, split="all")
    assert len(dataset) == 2
    assert dataset.class_names == ("a", "b")


@pytest.mark.parametrize("kinds, channels", [(["L", "1", "LA"], 1), (["L", "RGB", "P"], 3), (["L", "RGBA"], 3)])
def test_mixed_modes_have_one_shape(tmp_path, pixels, kinds, channels):
    for i, kind in enumerate(kinds):
        Image.fromarray(pixels(i, 6, 6, 3)).convert("LA" if kind == "LA" else kind).save(tmp_path / f"{i}.png")
    dataset = load(tmp_path, split="all")
    assert dataset.image_shape == (channels, 6, 6)
    assert dataset.tensors()[0].shape == (len(kinds), channels, 6, 6)
    for wanted in (1, 3):
        assert load(tmp_path, split="all", channels=wanted).tensors()[0].shape[1] == wanted


def test_sizes(make_folder, tmp_path, pixels):
    folder = make_folder({"a.png": 1, "b.png": 2})
    Image.fromarray(pixels(3, 9, 5, 3)).save(folder / "c.png")
    dataset = load(folder, split="all", size=(4, 7))
    assert dataset.image_shape == (3, 4, 7)
    for image, _ in dataset:
        assert image.shape == (3, 4, 7)
    with pytest.raises(ValueError, match=r"must have one size; got 9 x 5 in .*c\.png' after 6 x 6; pass size="):
        load(folder, split="all").tensors()


def test_images_are_read_only_when_asked_for(make_folder):
    folder = make_folder(MANY)
    dataset = load(folder, split="all")
    good = [dataset[i][0] for i in range(12)]
    path = folder / "07.png"
    path.write_bytes(path.read_bytes()[:60])
    broken = [i for i in range(12) if torch.equal(good[i], dataset_image(7))]
    assert len(broken) == 1
    for i in range(12):
        if i not in broken:
            assert torch.equal(dataset[i][0], good[i])
    with pytest.raises(ValueError, match=r"07\.png' must be an image that PIL can decode"):
        dataset[broken[0]]
    with pytest.raises(ValueError, match=r"07\.png"):
        dataset.tensors()


def dataset_image(seed):
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def test_split_folders(make_folder):
    files = {
        "train/cat/1.png": 1,
        "train/dog/2.png": 2,
        "train/cat/3.png": 3,
        "val/cat/4.png": 4,
        "val/dog/5.png": 5,
        "test/6.png": 6,
    }
    folder = make_folder(files)
    found = {split: load(folder, split=split) for split in ("train", "validation", "all", "test")}
    assert {split: len(dataset) for split, dataset in found.items()} == {
        "train": 3,
        "validation": 2,
        "all": 5,
        "test": 1,
    }
    assert all(dataset.class_names == ("cat", "dog") for dataset in found.values())
    assert sorted(found["validation"].tensors()[1].tolist()) == [0, 1]
    assert torch.equal(found["test"][0][0], dataset_image(6))
    assert found["test"][0][1] == -1
    assert len(load(folder, split="all", limit=4)) == 4


def test_train_folder_is_split_where_there_is_no_validation_folder(make_folder):
    folder = make_folder({**{f"train/{i}.png": i for i in range(10)}, "test/0.png": 99})
    assert [len(load(folder, split=split)) for split in ("train", "validation", "test")] == [9, 1, 1]


@pytest.mark.parametrize("other", ["other", "val"])
def test_without_a_train_folder_all_folders_are_classes(make_folder, other):
    dataset = load(make_folder({"test/1.png": 1, f"{other}/2.png": 2}), split="all")
    assert dataset.class_names == tuple(sorted([other, "test"]))


def test_a_folder_named_like_a_set(make_folder, tmp_path, monkeypatch):
    (make_folder({"1.png": 1, "2.png": 2})).rename(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert load("digits", split="all").image_shape == (1, 8, 8)
    assert load("./digits", split="all").image_shape == (3, 6, 6)
    assert load("digits/", split="all").name == "digits"


def test_folder_errors(make_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'; check the path"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load("some/where")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no images"):
        load(tmp_path / "empty")
    folder = make_folder({"1.png": 1})
    with pytest.raises(NotADirectoryError, match="must be a folder of images; got a file"):
        load(folder / "1.png")
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match="at least 2 images to be split into training and validation; got 1"):
            load(folder, split=split)
    with pytest.raises(ValueError, match="no test images"):
        load(folder, split="test")
    assert len(load(folder, split="all")) == len(load(folder, validation_fraction=0)) == 1
    (folder / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.png"):
        load(folder, split="all")


def test_messages_name_the_file_of_an_image_and_the_number_of_others(make_folder):
    folder = make_folder(MANY)
    for dataset in (load(folder, split="all"), load(folder, split="all", levels=2)):
        image = read_image(dataset.origin(7))
        assert torch.equal((image.int() * dataset.levels // 256).to(torch.uint8), dataset[7][0])
    assert load("mnist5k", limit=9).origin(7) == "7"


@pytest.fixture
def spoilt(make_folder):
    """A folder of eight images, of which two cannot be decoded."""
    folder = make_folder({f"{i}.png": i for i in range(8)})
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_bytes(b"no image")
    return folder


def test_images_that_cannot_be_decoded_are_left_out_on_demand(spoilt):
    with pytest.warns(UserWarning, match=r"2 of 8 images cannot be decoded and are left out: 3.png, 5.png"):
        images = load(spoilt, split="all", skip_corrupt=True)
    names = {Path(images.origin(i)).name for i in range(len(images))}
    assert names == {f"{i}.png" for i in (0, 1, 2, 4, 6, 7)}
    assert len(images.tensors()[0]) == 6


def test_without_it_the_file_is_named_when_its_turn_comes(spoilt):
    images = load(spoilt, split="all", channels=3)
    with pytest.raises(ValueError, match=r"[35]\.png' must be an image that PIL can decode"):
        images.tensors()


def test_a_folder_without_any_image_that_can_be_decoded_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="has no image that can be decoded; got 1 files"):
        load(tmp_path, skip_corrupt=True)
