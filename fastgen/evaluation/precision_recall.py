"""Quality and variety apart: which images lie where those of the other set do, by distances to nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.evaluation.frechet import check_features

AT_ONCE = 1024  # rows and columns of distances that are held at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of images near to those of the other set; near is within the distance to the k-th neighbour.

    Attributes:
        precision: drawn images that are near to some real one.
        recall: real images that are near to some drawn one.
        density: real images that a drawn one is near to, over k: above 1 where drawn images crowd where real ones do.
        coverage: real images that have a drawn one near to them, by the distances among real ones alone.
        k: neighbours.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def precision_recall(drawn: Tensor, real: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Precision = mean_j [exists i: |d_j - r_i| <= NND_k(r_i)], recall with the sets exchanged; density and coverage.

    NND_k(r_i) is the distance of r_i to the k-th nearest of the other real images; density =
    mean_j sum_i [|d_j - r_i| <= NND_k(r_i)] / k, coverage = mean_i [min_j |d_j - r_i| <= NND_k(r_i)]. One outlier
    among real images has a large ball, which flatters precision; density and coverage are sturdier.

    Shapes: drawn [N, F], real [M, F]. Distances are held 1024 x 1024 at a time.
    Dtypes: any float; computed in float64, each distance as the sum of its own squares, so that equal images are at
        distance zero.

    Raises:
        ValueError: other shapes, not more than k images in a set, k < 1, or features that are not finite.
    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019;
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020.
    """
    if k < 1:
        raise ValueError(f"precision_recall: k must be at least 1; got {k}; take 3 or 5")
    drawn, real = check_features("precision_recall", drawn, real, at_least=k + 1)
    radius_real, radius_drawn = kth_distance(real, k), kth_distance(drawn, k)
    balls = torch.zeros(len(drawn), dtype=torch.int64, device=real.device)  # of real images, that hold a drawn one
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64, device=real.device)
    for rows in _parts(len(drawn)):
        for columns in _parts(len(real)):
            distance = _distances(drawn[rows], real[columns])
            balls[rows] += (distance <= radius_real[columns]).sum(1)
            recalled[columns] |= (distance <= radius_drawn[rows, None]).any(0)
            nearest[columns] = torch.minimum(nearest[columns], distance.amin(0))
    return PrecisionRecall(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls.double().mean()) / k,
        coverage=float((nearest <= radius_real).double().mean()),
        k=k,
    )


def kth_distance(x: Tensor, k: int) -> Tensor:
    """The distance of each vector to the k-th nearest of the others. Shapes: [N > k, F] -> [N]."""
    radii = []
    for rows in _parts(len(x)):
        nearest = x.new_empty((rows.stop - rows.start, 0))
        for columns in _parts(len(x)):
            distance = _distances(x[rows], x[columns])
            if rows == columns:
                distance.fill_diagonal_(torch.inf)  # not its own neighbour; an equal image is one
            nearest = torch.cat([nearest, distance], 1)
            nearest = nearest.topk(min(k, nearest.shape[1]), 1, largest=False).values
        radii.append(nearest.amax(1))
    return torch.cat(radii)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _parts(n: int) -> list[slice]:
    return [slice(start, min(n, start + AT_ONCE)) for start in range(0, n, AT_ONCE)]
