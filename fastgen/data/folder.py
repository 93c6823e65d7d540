"""A folder of images as a data set, read lazily."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from fastgen.data.dataset import ImageDataset
from fastgen.data.images import image_channels, open_image, read_image
from fastgen.data.splits import Request, no_test_split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLIT_FOLDER = re.compile(r"(train|training|val|valid|validation|test)([_-]?\d+x\d+)?", re.IGNORECASE)


class FolderImages(ImageDataset):
    """Images that are read from their files each time; an error names the file that cannot be decoded."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        labels: Tensor,
        class_names: Sequence[str],
        size: tuple[int, int] | None,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(name, image_shape, class_names)
        self._paths, self._labels, self._size = paths, labels, size

    def __len__(self) -> int:
        """The number of images."""
        return len(self._paths)

    def origin(self, index: int) -> str:
        """The file of image `index`."""
        return str(self._paths[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Read image `index`; ValueError if its file is corrupt or of another shape than the first."""
        index = self._position(index)
        path = self._paths[index]
        image = read_image(path, self._size, self.image_shape[0])
        if image.shape != self.image_shape:
            raise ValueError(
                f"{self.name}: all images must have one size; got {image.shape[1]} x {image.shape[2]} in "
                f"{str(path)!r} after {self.image_shape[1]} x {self.image_shape[2]}; pass size=."
            )
        return image, int(self._labels[index])


def load_folder(name: str, folder: Path, request: Request, *, validation_is_test: bool = False) -> FolderImages:
    """The images below `folder`, in all its subfolders.

    The first-level subfolders are the classes, in order of their names, if every image is in one; otherwise
    there are no labels. Where instead the first level is `train` with `val`, `valid`, `validation` or `test`
    beside it (or names such as `train_32x32`), these are the splits and the classes are one level below; a
    split that has no folder is taken from `train`. Files and folders whose names start with a dot are
    skipped. Without `size` all images must have one size; without `channels` they are read as RGB unless all
    of them are gray.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it has no images, too few for the split, or no test folder where split is "test".
    """
    files = image_files(folder)
    if request.skip_corrupt:
        files = readable(folder, files)
    chosen, labels, class_names = choose_files(name, files, request, validation_is_test)
    channels = request.channels or common_channels(folder, files)
    first = read_image(folder.joinpath(*files[0]), request.size, channels)
    shape = (channels, first.shape[1], first.shape[2])
    return FolderImages(name, [folder.joinpath(*file) for file in chosen], labels, class_names, request.size, shape)


def image_files(folder: Path) -> list[tuple[str, ...]]:
    """Paths of all images below `folder`, in parts.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: as `load_folder`.
    """
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(f"load: {str(folder)!r} must be a folder of images; got a file; pass its folder.")
        raise FileNotFoundError(f"load: no folder {str(folder)!r}; check the path.")
    files = files_below(folder, SUFFIXES)
    if not files:
        raise ValueError(
            f"load: {str(folder)!r} has no images; looked in all subfolders for {' '.join(SUFFIXES)}; check the path."
        )
    return files


def readable(folder: Path, files: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Those of the files that can be decoded; a warning counts and names the others.

    Raises:
        ValueError: there are none.
    """
    with ThreadPoolExecutor() as pool:
        good = list(pool.map(lambda file: _can_be_decoded(folder.joinpath(*file)), files))
    bad = [os.path.join(*file) for file, fine in zip(files, good, strict=True) if not fine]
    if len(bad) == len(files):
        raise ValueError(
            f"load: {str(folder)!r} has no image that can be decoded; got {len(bad)} files; check {bad[0]!r}."
        )
    if bad:
        shown = ", ".join(bad[:16]) + (f" and {len(bad) - 16} more" if len(bad) > 16 else "")
        warnings.warn(
            f"{folder}: {len(bad)} of {len(files)} images cannot be decoded and are left out: {shown}", stacklevel=4
        )
    return [file for file, fine in zip(files, good, strict=True) if fine]


def _can_be_decoded(path: Path) -> bool:
    try:
        read_image(path)
    except ValueError:
        return False
    return True


def choose_files(
    name: str, files: Sequence[tuple[str, ...]], request: Request, validation_is_test: bool = False
) -> tuple[list[tuple[str, ...]], Tensor, list[str]]:
    """The files of the wanted split, their labels and the names of the classes, by the rules of `load_folder`."""
    pools = _split_folders(files, validation_is_test)
    below = 1 if pools else 0  # where the classes are
    pools = pools or {"train": list(files)}
    labelled = all(len(file) > below + 1 for file in pools["train"])
    class_names = sorted({file[below] for file in files if len(file) > below + 1}) if labelled else []

    if request.split == "test":
        if "test" not in pools:
            raise no_test_split(name)
        chosen = [pools["test"][i] for i in request.shuffled(len(pools["test"]))]
    elif "validation" in pools:
        parts = ["train", "validation"] if request.split == "all" else [request.split]
        order = [pools[part][i] for part in parts for i in request.shuffled(len(pools[part]))]
        chosen = order[: request.limit]
    else:
        chosen = [pools["train"][i] for i in request.choose(name, len(pools["train"]))]

    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    labels = torch.tensor([numbers.get(file[below], -1) for file in chosen], dtype=torch.int64)
    return chosen, labels, class_names


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Paths below `folder` in parts, sorted, one for each file with one of the suffixes; dot files are skipped."""
    return sorted(_walk(folder, suffixes, ()))


def _walk(
    folder: Path, suffixes: tuple[str, ...], parts: tuple[str, ...], above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, ...]]:
    """Links are followed, except to a folder above."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), suffixes, (*parts, entry.name), above | {real})
            elif entry.name.lower().endswith(suffixes):
                yield (*parts, entry.name)


def _split_folders(files: Sequence[tuple[str, ...]], validation_is_test: bool) -> dict[str, list[tuple[str, ...]]]:
    """The files by split if the first-level folders are splits, one of them `train`; else nothing."""
    pools: dict[str, list[tuple[str, ...]]] = {}
    held_out = "test" if validation_is_test else "validation"
    for file in files:
        match = SPLIT_FOLDER.fullmatch(file[0]) if len(file) > 1 else None
        if match is None:
            return {}
        kind = {"tr": "train", "te": "test", "va": held_out}[match[1][:2].lower()]
        pools.setdefault(kind, []).append(file)
    return pools if "train" in pools else {}


def common_channels(folder: Path, files: Sequence[tuple[str, ...]]) -> int:
    """1 if all images are gray by their headers, else 3: a set with any colour in it is read in colour."""
    for file in files:
        with open_image(folder.joinpath(*file)) as image:
            if image_channels(image) == 3:
                return 3
    return 1
