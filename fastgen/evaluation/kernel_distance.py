"""The kernel distance between features of two sets of images: KID, without bias."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.evaluation.frechet import check_features


@dataclass(frozen=True)
class KernelDistance:
    """Mean over random subsets.

    Attributes:
        value: of the squared distance; below zero where sets are alike, as an estimate without bias must be.
        stderr: standard error of `value` over sets of images, by the jackknife that deletes as many as it keeps out.
        std: standard deviation between subsets, which the literature often reports.
        subset_size: images of each set in a subset.
        n_subsets: their number.
    """

    value: float
    stderr: float
    std: float
    subset_size: int
    n_subsets: int


def kernel_distance(
    a: Tensor, b: Tensor, *, n_subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """MMD^2 = E k(a, a') + E k(b, b') - 2 E k(a, b), k(x, y) = (x.y / F + 1)^3, without bias.

    It needs no Gaussian and does not shift with the number of images, so figures of different numbers compare.
    Subsets of one set overlap, and their spread over sqrt(n_subsets) would pretend to more images than there are: the
    standard error is the delete-d jackknife's, std * sqrt(m / (n - m)) for m of n images, and what random subsets add.

    Shapes: a [N, F], b [M, F]. Dtypes: any float; computed in float64.
    subset_size: by default 1000, and at most half of the smaller set.

    Raises:
        ValueError: other shapes, fewer than four images, numbers of subsets or sizes that there are not, or features
            that are not finite.
    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018; Shao and Wu, "A General Theory for Jackknife Variance
        Estimation", 1989.
    """
    a, b = check_features("kernel_distance", a, b, at_least=4)
    fewest = min(len(a), len(b))
    size = min(1000, fewest // 2) if subset_size is None else subset_size
    if not 2 <= size < fewest or n_subsets < 2:
        raise ValueError(
            f"kernel_distance: there must be two subsets or more, of 2 to {fewest - 1} images; got {n_subsets} of "
            f"{size}; draw more images or lower subset_size"
        )
    generator = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]

    values = torch.tensor([polynomial_mmd(subset(a), subset(b)) for _ in range(n_subsets)], dtype=torch.float64)
    std = float(values.std())
    stderr = std * math.sqrt(size / (fewest - size) + 1 / n_subsets)
    return KernelDistance(float(values.mean()), stderr, std, size, n_subsets)


def polynomial_mmd(a: Tensor, b: Tensor) -> float:
    """The estimate without bias of MMD^2 with k(x, y) = (x.y / F + 1)^3: no image is compared with itself.

    Shapes: a [N >= 2, F], b [M >= 2, F].
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
