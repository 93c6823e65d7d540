"""Which training images are nearest to given ones: whether samples are copies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.data import LabelledDataset, sweep


def nearest_neighbours(
    images: Tensor, data: LabelledDataset, k: int = 5, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """The k images of `data` with the least root of the mean squared difference of levels, nearest first.

    Shapes: images [N, C, H, W] of levels, data of [C, H, W] -> distances [N, k] in levels, indices [N, k].
    Dtypes: levels of any integer type; differences of levels are exact in float32, which the distances are.
    Gradient order: none.

    Raises:
        ValueError: images of another shape than those of `data`, or fewer of these than k.
    """
    if tuple(images.shape[1:]) != tuple(data.shape) or not 1 <= k <= len(data):
        raise ValueError(
            f"nearest_neighbours: images must be of {list(data.shape)} like those of {data.name}, and k in "
            f"1..{len(data)}; got {list(images.shape)} and k={k}"
        )
    wanted = images.flatten(1).float()
    best = wanted.new_full((len(images), k), math.inf)
    where = torch.full((len(images), k), -1, dtype=torch.int64, device=images.device)
    start = 0
    for x, _ in sweep(data, batch_size):
        other = x.to(images.device).flatten(1).float()
        squares = torch.cdist(wanted, other, compute_mode="donot_use_mm_for_euclid_dist").square()
        found = torch.arange(start, start + len(x), device=images.device).expand(len(images), -1)
        best, order = torch.cat([best, squares], 1).topk(k, 1, largest=False, sorted=True)
        where = torch.cat([where, found], 1).gather(1, order)
        start += len(x)
    return (best / wanted.shape[1]).sqrt(), where
