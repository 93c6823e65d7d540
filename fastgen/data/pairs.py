"""Data sets of two domains: built-in ones by name, and folders of pairs or of two kinds of images."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.data.builtin import load_mnist5k
from fastgen.data.dataset import ImageDataset, TensorImages
from fastgen.data.folder import SPLIT_FOLDER, FolderImages, choose_files, common_channels, image_files
from fastgen.data.images import Size, check_channels, check_size, fit_images, read_image
from fastgen.data.photos import load_photos
from fastgen.data.splits import Request, check_request
from fastgen.data.two_domains import ROUNDS, ImagePairs, SideBySideImages, TwoDomainImages, unpair

Channels = tuple[int | None, int | None]
Files = list[tuple[str, ...]]

_DOMAIN_FOLDER = re.compile(r"(train|training|val|valid|validation|test)[_-]?([ab])", re.IGNORECASE)
_EDGE_GAIN = 0.75  # darkness of an edge by the length of Sobel's gradient, both in levels


def load_pairs(
    name_or_folder: str | os.PathLike[str],
    *,
    split: str = "train",
    size: Size | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    channels: int | Sequence[int] | None = None,
    limit: int | None = None,
    paired: bool | None = None,
) -> TwoDomainImages:
    """A data set of two domains, whose items are an image of each, stacked by channels.

    By name: `photos-gray` (crops of `photos` in gray and in colour) and `photos-edges` (edges of crops, and the crops)
    are paired; `mnist5k-bold` (digits, and other digits with bold strokes) and `mnist5k-3-8` (threes, and eights) not.

    A folder is one of these:
        trainA, trainB, with testA and testB or valA and valB beside them: the domains "A" and "B" (CycleGAN's layout);
        two folders of other names, such as horse and zebra or A and B: the domains, which may hold train, val and test;
        otherwise files that hold two images side by side (pix2pix's layout), in train, val and test or not: the domains
        "left" and "right".

    Splits, and what is skipped, are those of `load`. Images of two folders are not paired unless `paired` asks for it.
    Unpaired sets may differ in size: the smaller one is gone through again and again. An item is a function of its
    number, and the training images meet `ROUNDS` times, each time others; so the set is that much longer.

    Args:
        name_or_folder: a name, or a folder.
        split: "train", "validation", "all" or, where a folder has one, "test".
        size: S for S x S or (H, W), of the images of both domains (see `load`); None: their own, which must be one.
        seed: chooses the validation images, the order within every split, and which images meet.
        validation_fraction: of the images that are not "test", the part that is for validation, in [0, 1).
        channels: 1 (gray) or 3 (RGB), or one of them for each domain. None: a domain's own.
        limit: at most so many images of each domain.
        paired: True: the images of an item must show the same; those of two folders are matched by their paths without
            ending. False: they merely meet, whatever the set is. None: as the set is.

    Shapes: items [CA + CB, H, W]. Dtypes: uint8 levels, int64 labels, all -1.

    Raises:
        ValueError: an unknown name, an argument out of range, a domain without images, images of different sizes, files
            that hold no pair or have no counterpart, an unpaired set where a paired one is asked for.
        TypeError, FileNotFoundError, ImportError: as `load`.
    """
    request = check_request(
        "load_pairs",
        split=split,
        size=check_size("load_pairs", size),
        seed=seed,
        validation_fraction=validation_fraction,
        limit=limit,
    )
    wanted = _check_pair_of_channels(channels)
    name = os.fspath(name_or_folder)
    if isinstance(name_or_folder, str) and name in PAIRS:
        pairs = PAIRS[name](name, request, wanted)
    else:
        folder = Path(name).expanduser()
        if isinstance(name_or_folder, str) and name == folder.name and not folder.exists():
            raise unknown_name("data set of two domains (nor is there a folder of that name)", name, PAIRS)
        pairs = _load_folder(folder.resolve().name, folder, request, wanted, paired)
    if paired and not pairs.paired:
        raise ValueError(
            f"load_pairs: {name!r} must have pairs that show the same; its images merely meet; take one of "
            "photos-gray, photos-edges or a folder of pairs."
        )
    return unpair(pairs, _rounds(request), request.seed) if paired is False else pairs


def load_photos_gray(name: str, request: Request, channels: Channels = (None, None)) -> ImagePairs:
    """Crops of `photos` in gray, and in colour."""
    colour = load_photos(name, dataclasses.replace(request, channels=3)).tensors()[0]
    return _held(name, ("gray", "colour"), fit_images(colour, None, 1), colour, request, channels, paired=True)


def load_photos_edges(name: str, request: Request, channels: Channels = (None, None)) -> ImagePairs:
    """Edges of crops of `photos`, dark on white, and the crops."""
    colour = load_photos(name, dataclasses.replace(request, channels=3)).tensors()[0]
    return _held(name, ("edges", "photo"), edges(fit_images(colour, None, 1)), colour, request, channels, paired=True)


def load_mnist5k_bold(name: str, request: Request, channels: Channels = (None, None)) -> ImagePairs:
    """Every other digit of `mnist5k`, and the rest with strokes that are two pixels wider."""
    images = load_mnist5k(name, _everything(request)).tensors()[0]
    return _held(name, ("thin", "bold"), images[::2], bold(images[1::2]), request, channels, paired=False)


def load_mnist5k_3_8(name: str, request: Request, channels: Channels = (None, None)) -> ImagePairs:
    """The threes and the eights of `mnist5k`."""
    images, labels = load_mnist5k(name, _everything(request)).tensors()
    return _held(name, ("3", "8"), images[labels == 3], images[labels == 8], request, channels, paired=False)


PAIRS: dict[str, Callable[[str, Request, Channels], TwoDomainImages]] = {
    "photos-gray": load_photos_gray,
    "photos-edges": load_photos_edges,
    "mnist5k-bold": load_mnist5k_bold,
    "mnist5k-3-8": load_mnist5k_3_8,
}


def source(name: str, request: Request) -> ImageDataset:
    """The set of two domains of that name, as `load` asks for it: `request.channels` is of each domain."""
    return PAIRS[name](name, request, (request.channels, request.channels))


def edges(gray: Tensor) -> Tensor:
    """Length of Sobel's gradient, dark on white. Shapes: uint8 [N, 1, H, W] -> the same."""
    x = F.pad(gray.float(), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gradient = F.conv2d(x, torch.stack([sobel, sobel.T])[:, None])  # whole numbers: exact
    return (255 - _EDGE_GAIN * gradient.norm(dim=1, keepdim=True)).clamp(0, 255).round().to(torch.uint8)


def bold(images: Tensor) -> Tensor:
    """The brightest of each pixel and its eight neighbours. Shapes: uint8 [N, C, H, W] -> the same."""
    return F.max_pool2d(images.float(), 3, 1, 1).to(torch.uint8)


def _held(
    name: str, domains: tuple[str, str], a: Tensor, b: Tensor, request: Request, channels: Channels, *, paired: bool
) -> ImagePairs:
    """Images in memory, at the wanted size and channels."""
    sets = []
    for images, wanted in zip((a, b), channels, strict=True):
        fitted = fit_images(images[: request.limit], request.size, wanted)
        sets.append(TensorImages(name, fitted, torch.full((len(fitted),), -1)))
    return ImagePairs(name, domains, *sets, paired=paired, rounds=_rounds(request), seed=request.seed)


def _everything(request: Request) -> Request:
    """The whole split of a set, as it is."""
    return dataclasses.replace(request, size=None, channels=None, limit=None)


def _rounds(request: Request) -> int:
    return ROUNDS if request.split in ("train", "all") else 1


def _check_pair_of_channels(channels: int | Sequence[int] | None) -> Channels:
    if not isinstance(channels, Sequence):
        each = check_channels("load_pairs", channels)
        return each, each
    if len(channels) != 2:
        raise ValueError(f"load_pairs: channels must be one number or two; got {channels}; pass for example (1, 3).")
    return check_channels("load_pairs", channels[0]), check_channels("load_pairs", channels[1])


def _load_folder(name: str, folder: Path, request: Request, channels: Channels, paired: bool | None) -> TwoDomainImages:
    """The pairs of a folder, by the rules of `load_pairs`."""
    files = image_files(folder)
    inside = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    loose = any(len(file) == 1 for file in files)
    if inside and not loose and all(_DOMAIN_FOLDER.fullmatch(part) for part in inside):
        domains, owner = ("A", "B"), _by_letter(inside)
    elif len(inside) == 2 and not loose and not all(SPLIT_FOLDER.fullmatch(part) for part in inside):
        domains, owner = (inside[0], inside[1]), {inside[0]: (0, ()), inside[1]: (1, ())}
    else:
        chosen, _, _ = choose_files(name, files, request)
        common = 0 if None not in channels else common_channels(folder, files)
        a, b = (wanted or common for wanted in channels)
        return SideBySideImages(name, [folder.joinpath(*file) for file in chosen], request.size, (a, b))

    pools: tuple[dict[tuple[str, ...], Path], ...] = ({}, {})  # the files of each domain, by their place in it
    for file in files:
        number, prefix = owner[file[0]]
        pools[number][prefix + file[1:]] = folder.joinpath(*file)
    for domain, pool in zip(domains, pools, strict=True):
        if not pool:
            raise ValueError(
                f"load_pairs: both domains in {str(folder)!r} must have images; {domain} has none; check the path."
            )
    if paired:
        a_files, b_files = _matched(name, domains, [list(pool) for pool in pools], request)
    else:
        a_files, b_files = (choose_files(f"{name}, {d}", list(pool), request)[0] for d, pool in zip(domains, pools))
    images = [
        _images(f"{name}, {domain}", pool, chosen, request.size, wanted)
        for domain, pool, chosen, wanted in zip(domains, pools, (a_files, b_files), channels, strict=True)
    ]
    return ImagePairs(name, domains, *images, paired=bool(paired), rounds=_rounds(request), seed=request.seed)


def _by_letter(folders: Sequence[str]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Of trainA, testB, ... the number of the domain and the split that the images are in."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for folder in folders:
        match = _DOMAIN_FOLDER.fullmatch(folder)
        assert match is not None
        found[folder] = ("AB".index(match[2].upper()), (match[1].lower(),))
    return found


def _images(
    name: str, pool: dict[tuple[str, ...], Path], chosen: Files, size: tuple[int, int] | None, wanted: int | None
) -> FolderImages:
    """The chosen files of a domain as a data set."""
    every = [(str(path),) for path in pool.values()]
    channels = wanted or common_channels(Path(), every)
    first = read_image(next(iter(pool.values())), size, channels)
    paths = [pool[file] for file in chosen]
    labels = torch.full((len(paths),), -1)
    return FolderImages(name, paths, labels, (), size, (channels, first.shape[1], first.shape[2]))


def _matched(name: str, domains: tuple[str, str], files: Sequence[Files], request: Request) -> tuple[Files, Files]:
    """The files of the wanted split of each domain, matched by their paths without ending.

    Raises:
        ValueError: a file without counterpart, or two that differ in their ending alone.
    """
    tables: list[dict[tuple[str, ...], tuple[str, ...]]] = [{}, {}]
    for domain, table, mine in zip(domains, tables, files, strict=True):
        for file in mine:
            stem = _stem(file)
            if stem in table:
                raise ValueError(
                    f"load_pairs: of a pair each domain must have one file; {domain} has {'/'.join(table[stem])!r} and "
                    f"{'/'.join(file)!r}; remove one."
                )
            table[stem] = file
    alone = sorted(set(tables[0]) ^ set(tables[1]))
    if alone:
        shown = ", ".join("/".join(stem) for stem in alone[:3]) + (f" and {len(alone) - 3} more" * (len(alone) > 3))
        raise ValueError(
            f"load_pairs: every image of {name!r} must have a counterpart of the same name in the other domain; got "
            f"none for {shown}; remove these, or train on unpaired images."
        )
    chosen, _, _ = choose_files(name, sorted(tables[0].values()), request)
    return chosen, [tables[1][_stem(file)] for file in chosen]


def _stem(file: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a file without its ending."""
    return (*file[:-1], Path(file[-1]).stem)
