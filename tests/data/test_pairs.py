"""Data of two domains: which images meet, folders of both layouts, built-in pairs, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import ImagePairs, TensorImages, load, load_pairs, loader, names, read_image, sweep
from fastgen.data.images import fit_images
from fastgen.data.pairs import PAIRS, bold, edges
from fastgen.data.two_domains import ROUNDS, DomainImages


def numbered(n: int, channels: int = 1, side: int = 2) -> TensorImages:
    """Image k is of level k everywhere."""
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, channels, side, side)
    return TensorImages("numbers", x, torch.zeros(n, dtype=torch.int64), ("only",))


def who_meets(pairs: ImagePairs) -> list[tuple[int, int]]:
    x = pairs.tensors()[0]
    return [(int(a), int(b)) for a, b in zip(x[:, 0, 0, 0], x[:, pairs.domain_channels[0], 0, 0])]


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 7), (7, 3), (5, 5), (1, 4)])
def test_unpaired_sets_of_any_sizes_meet_anew_in_every_round(n_a: int, n_b: int) -> None:
    pairs = ImagePairs("p", ("a", "b"), numbered(n_a), numbered(n_b, 3), paired=False, rounds=6, seed=1)
    n = max(n_a, n_b)
    assert len(pairs) == 6 * n and pairs.shape == (4, 2, 2) and pairs.domain_sizes == (n_a, n_b)
    met = who_meets(pairs)
    rounds = [met[r * n : (r + 1) * n] for r in range(6)]
    for number, size in ((0, n_a), (1, n_b)):
        for each in rounds:  # all of the larger set once, of the smaller one as often as can be
            counts = np.bincount([pair[number] for pair in each], minlength=size)
            assert counts.min() >= n // size and counts.max() <= -(-n // size)
    if min(n_a, n_b) > 1:
        assert len({frozenset(each) for each in rounds}) > 1
        assert min(len({b for a, b in met if a == k}) for k in range(n_a)) > 1
    again = ImagePairs("p", ("a", "b"), numbered(n_a), numbered(n_b, 3), paired=False, rounds=6, seed=1)
    assert who_meets(again) == met
    longer = ImagePairs("p", ("a", "b"), numbered(n_a), numbered(n_b, 3), paired=False, rounds=9, seed=1)
    assert who_meets(longer)[: 6 * n] == met


def test_an_item_is_both_images_however_it_is_read() -> None:
    pairs = ImagePairs("p", ("a", "b"), numbered(3, 1), numbered(5, 3), paired=False, seed=2)
    x, labels = pairs.batch(torch.tensor([4, 0]))
    assert labels.tolist() == [-1, -1] and pairs.n_classes == 0 and pairs.in_memory
    assert torch.equal(x[0], pairs[4][0]) and torch.equal(x[1], pairs[-5][0])
    a, b = who_meets(pairs)[4]
    assert pairs.origin(4) == f"{a} with {b}"
    assert torch.equal(x[0, 0], torch.full((2, 2), a, dtype=torch.uint8))
    assert torch.equal(x[0, 1:], torch.full((3, 2, 2), b, dtype=torch.uint8))
    assert torch.equal(next(loader(pairs, 5, start_step=3))[0].sort(0).values, pairs.tensors()[0].sort(0).values)
    assert torch.equal(DomainImages(pairs, 1).tensors()[0], pairs.tensors()[0][:, 1:])
    assert torch.equal(DomainImages(pairs, 0)[2][0], pairs[2][0][:1])


def test_paired_sets_keep_their_order() -> None:
    pairs = ImagePairs("p", ("a", "b"), numbered(4), numbered(4), paired=True)
    assert who_meets(pairs) == [(k, k) for k in range(4)]
    with pytest.raises(ValueError, match=r"as many images each; got 4 of a and 5 of b; pass paired=False"):
        ImagePairs("p", ("a", "b"), numbered(4), numbered(5), paired=True)
    with pytest.raises(ValueError, match=r"both domains must have images; b has none"):
        ImagePairs("p", ("a", "b"), numbered(4), numbered(0), paired=False)
    with pytest.raises(ValueError, match=r"one size; got 2 x 2 of a and 3 x 3 of b; pass size="):
        ImagePairs("p", ("a", "b"), numbered(4), numbered(4, side=3), paired=False)


def two_kinds(folder: Path, counts: dict[str, int], height: int = 6, width: int = 6, channels: int = 3) -> Path:
    """Files 0.png, 1.png, ... in each folder, all of different pixels."""
    for number, (name, n) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            shape = (height, width, 3) if channels == 3 else (height, width)
            pixels = np.random.default_rng(1000 * number + k).integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def files(folder: Path, names: str | list[str]) -> set[bytes]:
    found = [path for name in ([names] if isinstance(names, str) else names) for path in (folder / name).iterdir()]
    return {read_image(path).numpy().tobytes() for path in found}


def halves(pairs) -> tuple[set[bytes], set[bytes]]:
    ca = pairs.domain_channels[0]
    images = pairs.tensors()[0].numpy()
    return {x[:ca].tobytes() for x in images}, {x[ca:].tobytes() for x in images}


def test_the_layout_of_cyclegan(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path, {"trainA": 10, "trainB": 4, "testA": 2, "testB": 3})
    train, held_out = load_pairs(folder), load_pairs(folder, split="validation")
    assert train.domains == ("A", "B") and not train.paired and train.domain_channels == (3, 3)
    assert (train.domain_sizes, len(train)) == ((9, 3), 9 * ROUNDS)
    assert (held_out.domain_sizes, len(held_out)) == ((1, 1), 1)
    for number, letter in enumerate("AB"):
        mine, theirs = halves(train)[number], halves(held_out)[number]
        assert not mine & theirs and mine | theirs == files(folder, f"train{letter}")
        assert halves(load_pairs(folder, split="test"))[number] == files(folder, f"test{letter}")
        assert halves(load_pairs(folder, split="all"))[number] == files(folder, f"train{letter}")
    assert load_pairs(folder, limit=2).domain_sizes == (2, 2)
    assert len({origin.split(" with ")[0] for origin in map(train.origin, range(len(train)))}) == 9
    x, _ = next(loader(train, 4, workers=0))
    assert torch.equal(x, next(loader(train, 4, start_step=0))[0])


def test_a_validation_folder_is_the_validation_split(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path, {"trainA": 3, "train_B": 3, "valA": 2, "val_b": 1})
    held_out = load_pairs(folder, split="validation")
    assert halves(held_out) == (files(folder, "valA"), files(folder, "val_b"))
    assert halves(load_pairs(folder))[0] == files(folder, "trainA")


def test_any_two_folders_are_domains_that_carry_their_names(tmp_path: Path) -> None:
    two_kinds(tmp_path, {"zebra": 4}, channels=1)
    folder = two_kinds(tmp_path, {"horse/train": 3, "horse/test": 2})
    pairs = load_pairs(folder, split="all")
    assert pairs.domains == ("horse", "zebra") and pairs.domain_channels == (3, 1)
    assert halves(pairs) == (files(folder, "horse/train"), files(folder, "zebra"))
    assert load_pairs(folder, channels=1).domain_channels == (1, 1)
    assert load_pairs(folder, channels=(1, 3), size=4).shape == (4, 4, 4)


def test_two_folders_are_paired_by_name_when_asked(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path, {"A": 6, "B": 6})
    for path in (folder / "A").iterdir():
        path.rename(path.with_suffix(".bmp"))  # the ending does not matter
    pairs = load_pairs(folder, paired=True)
    assert pairs.paired and len(pairs) == 5
    for k in range(5):
        a, b = pairs.origin(k).split(" with ")
        assert Path(a).stem == Path(b).stem
    held_out = load_pairs(folder, paired=True, split="validation")
    assert not halves(pairs)[0] & halves(held_out)[0] and not halves(pairs)[1] & halves(held_out)[1]
    (folder / "B" / "3.png").rename(folder / "B" / "x.png")
    with pytest.raises(ValueError, match="have a counterpart of the same name in the other domain; got none for 3, x"):
        load_pairs(folder, paired=True)
    assert load_pairs(folder).domain_sizes == (5, 5)
    (folder / "B" / "x.bmp").write_bytes((folder / "B" / "x.png").read_bytes())
    with pytest.raises(ValueError, match=r"each domain must have one file; B has 'x.bmp' and 'x.png'"):
        load_pairs(folder, paired=True)


def test_the_layout_of_pix2pix(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path, {"train": 5, "val": 2}, width=12)
    pairs, held_out = load_pairs(folder), load_pairs(folder, split="validation")
    assert pairs.paired and pairs.domains == ("left", "right") and pairs.shape == (6, 6, 6)
    assert (len(pairs), len(held_out)) == (5, 2) and not pairs.in_memory
    for k in range(5):
        whole = read_image(pairs.origin(k))
        assert torch.equal(pairs[k][0], torch.cat([whole[:, :, :6], whole[:, :, 6:]]))
    small = load_pairs(folder, size=(4, 3), channels=(1, 3))
    left = fit_images(read_image(small.origin(1))[None, :, :, :6], (4, 3), 1)[0]
    assert small.shape == (4, 4, 3) and torch.equal(small[1][0][:1], left)
    x, labels = pairs.batch(torch.tensor([2, 0]))
    assert torch.equal(x[1], pairs[0][0]) and labels.tolist() == [-1, -1]


def test_pairs_are_taken_apart_when_asked(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path, {"train": 7}, width=12)
    together = {x.numpy().tobytes() for x, _ in load_pairs(folder, split="all")}
    apart = load_pairs(folder, split="all", paired=False)
    assert not apart.paired and len(apart) == 7 * ROUNDS
    assert halves(apart) == halves(load_pairs(folder, split="all"))
    assert sum(x.numpy().tobytes() not in together for x, _ in apart) > 4 * ROUNDS
    held = load_pairs("photos-gray", paired=False, limit=20)
    assert held.in_memory and len(held) == 20 * ROUNDS


def test_files_that_hold_no_pair_are_named(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path / "square", {".": 3})
    with pytest.raises(ValueError, match=r"\d.png' must hold two images side by side.*got 6 x 6"):
        load_pairs(folder)
    folder = two_kinds(tmp_path / "odd", {".": 3}, width=13)
    with pytest.raises(ValueError, match="of even width and wider than high; got 6 x 13"):
        load_pairs(folder)
    folder = two_kinds(tmp_path / "mixed", {".": 4}, width=12)
    pairs = load_pairs(folder, split="all")
    Path(pairs.origin(2)).write_bytes(b"no image")
    with pytest.raises(ValueError, match=rf"{pairs.origin(2)}' must be an image that PIL can decode"):
        list(sweep(pairs, 4))
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(pairs.origin(2))
    with pytest.raises(ValueError, match=rf"got halves of 8 x 8 in '{pairs.origin(2)}' after 6 x 6; pass size="):
        list(sweep(pairs, 4))


def test_bad_folders_and_names(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path / "half", {"trainA": 3, "testA": 1})
    with pytest.raises(ValueError, match=r"both domains in '.*half' must have images; B has none"):
        load_pairs(folder)
    folder = two_kinds(tmp_path / "empty", {"A": 3, "B": 0})
    with pytest.raises(ValueError, match="B has none"):
        load_pairs(folder)
    folder = two_kinds(tmp_path / "sizes", {"A": 3})
    two_kinds(tmp_path / "sizes", {"B": 3}, height=8)
    with pytest.raises(ValueError, match="one size; got 6 x 6 of A and 8 x 6 of B; pass size="):
        load_pairs(folder)
    assert load_pairs(folder, size=4).shape == (6, 4, 4)
    with pytest.raises(ValueError, match="has no test images of its own"):
        load_pairs(folder, size=4, split="test")
    with pytest.raises(ValueError, match=r"unknown data set of two domains .*'photos-grey'; did you mean photos-gray"):
        load_pairs("photos-grey")
    with pytest.raises(ValueError, match="unknown data set of two domains"):
        load_pairs("mnist5k")
    with pytest.raises(ValueError, match=r"'mnist5k-bold' must have pairs that show the same; its images merely meet"):
        load_pairs("mnist5k-bold", paired=True)
    with pytest.raises(ValueError, match="channels must be one number or two"):
        load_pairs("photos-gray", channels=(1, 3, 3))
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_pairs(tmp_path / "nowhere")


def test_built_in_pairs_have_names_of_their_own() -> None:
    assert set(PAIRS) < set(names())
    for name in PAIRS:
        mine = load_pairs(name, split="validation", limit=3)
        x = load(name, split="validation", limit=3).tensors()[0]
        assert torch.equal(mine.tensors()[0], x)
        assert load_pairs(name, size=16, channels=3, limit=3).shape == (6, 16, 16)


@pytest.mark.parametrize("name", ["photos-gray", "photos-edges"])
def test_photos_are_paired_with_what_is_made_of_them(name: str) -> None:
    for split in ("train", "validation"):
        pairs = load_pairs(name, split=split)
        x = pairs.tensors()[0]
        gray = fit_images(x[:, 1:], None, 1)
        assert torch.equal(x[:, 1:], load("photos", split=split).tensors()[0])
        assert torch.equal(x[:, :1], gray if name == "photos-gray" else edges(gray))
        assert pairs.paired and len(pairs) == len(x)


def test_edges_are_dark_where_the_gray_changes() -> None:
    step = torch.zeros(1, 1, 6, 8, dtype=torch.uint8)
    step[..., 4:] = 50
    found = edges(step)[0, 0].int()
    assert bool((found[:, [0, 1, 2, 5, 6, 7]] == 255).all())
    assert bool((found[:, 3:5] == 255 - round(0.75 * 4 * 50)).all())
    assert torch.equal(edges(step.transpose(2, 3)), edges(step).transpose(2, 3))


def test_bold_digits_are_those_of_other_thin_ones() -> None:
    pairs = load_pairs("mnist5k-bold", split="validation")
    assert pairs.domains == ("thin", "bold") and not pairs.paired and pairs.domain_sizes == (250, 250)
    whole = load("mnist5k", split="validation").tensors()[0]
    thin, bolder = halves(pairs)
    assert thin == {x.numpy().tobytes() for x in whole[::2]}
    assert bolder == {x.numpy().tobytes() for x in bold(whole[1::2])}
    x = torch.randint(0, 256, (2, 1, 5, 4), dtype=torch.uint8)
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    brightest = np.max([wide[:, :, i : i + 5, j : j + 4] for i in range(3) for j in range(3)], axis=0)
    assert np.array_equal(bold(x).numpy(), brightest)


def test_threes_and_eights() -> None:
    pairs = load_pairs("mnist5k-3-8")
    images, labels = load("mnist5k").tensors()
    for number, label in enumerate((3, 8)):
        assert halves(pairs)[number] == {x.numpy().tobytes() for x in images[labels == label]}
    sizes = pairs.domain_sizes
    assert sizes[0] != sizes[1] and len(pairs) == ROUNDS * max(sizes)
