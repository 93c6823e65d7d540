"""Which modes of the data a generative model draws: counts of classes, and of the components of a mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ClassCoverage:
    """What classes drawn images show, by a classifier.

    Attributes:
        counts: images of each class.
        found: classes with at least a tenth of their share of the data.
        divergence: KL(drawn || data) of the classes, in nats: 0 where the shares are those of the data.
        confidence: mean probability of the most probable class, low for images that show no class.
    """

    counts: tuple[int, ...]
    found: int
    divergence: float
    confidence: float

    def __str__(self) -> str:
        """One line: `9 of 10 classes, KL 0.1234 nats, confidence 0.91, counts 100 52 ...`."""
        counts = " ".join(map(str, self.counts))
        return (
            f"{self.found} of {len(self.counts)} classes, KL {self.divergence:.4f} nats, confidence "
            f"{self.confidence:.2f}, counts {counts}"
        )


@dataclass(frozen=True)
class MixtureCoverage:
    """What components of a mixture of Gaussians drawn points belong to.

    Attributes:
        counts: points within `reach` standard deviations of each centre.
        found: components with at least a tenth of an equal share of the points.
        high_quality: fraction of the points that are that near to a centre.
    """

    counts: tuple[int, ...]
    found: int
    high_quality: float

    def __str__(self) -> str:
        """One line: `8 of 8 modes, 95.1% of high quality, counts 120 ...`."""
        counts = " ".join(map(str, self.counts))
        return f"{self.found} of {len(self.counts)} modes, {self.high_quality:.1%} of high quality, counts {counts}"


def class_coverage(
    images: Tensor, classify: Callable[[Tensor], Tensor], shares: Tensor, batch_size: int = 256
) -> ClassCoverage:
    """The classes of drawn images, beside the shares that the data has of them.

    Shapes: images [N, C, H, W] -> what `classify` takes, which gives logits [N, K]; shares [K], their sum is 1.

    Raises:
        ValueError: no images, or shares that are none.
    """
    if not len(images):
        raise ValueError("class_coverage: there must be images; got none; draw some")
    wanted = shares.double().cpu()
    if wanted.dim() != 1 or len(wanted) < 2 or bool((wanted < 0).any()) or abs(float(wanted.sum()) - 1) > 1e-6:
        raise ValueError(f"class_coverage: shares must be [K >= 2], not negative, with sum 1; got {shares.tolist()}")
    with torch.no_grad():
        probabilities = torch.cat([classify(part).softmax(1).double().cpu() for part in images.split(batch_size)])
    confidence, classes = probabilities.max(1)
    counts = F.one_hot(classes, len(wanted)).sum(0)
    drawn = counts.double() / len(images)
    divergence = torch.special.xlogy(drawn, drawn) - torch.special.xlogy(drawn, wanted)
    found = int(((wanted > 0) & (drawn >= 0.1 * wanted)).sum())
    return ClassCoverage(tuple(counts.tolist()), found, float(divergence.sum()), float(confidence.mean()))


def mixture_coverage(points: Tensor, centres: Tensor, std: float, reach: float = 3.0) -> MixtureCoverage:
    """The components of an equal mixture of isotropic Gaussians that points belong to.

    A point is of high quality within `reach` standard deviations of the nearest centre; of the mixture itself in the
    plane 1 - e^(-reach^2 / 2) of the points are, 98.9% for three.

    Shapes: points [N, D], centres [K, D]. Dtypes: any; computed in float64.

    Raises:
        ValueError: no points, other dimensions, or a spread that is not positive.
    Source: Srivastava et al., "VEEGAN", NIPS 2017, section 4.1.
    """
    if points.dim() != 2 or centres.dim() != 2 or points.shape[1:] != centres.shape[1:] or not len(points):
        raise ValueError(
            f"mixture_coverage: points must be [N, D] and centres [K, D]; got {list(points.shape)} and "
            f"{list(centres.shape)}"
        )
    if not (std > 0 and reach > 0):
        raise ValueError(f"mixture_coverage: std and reach must be positive; got {std} and {reach}")
    distance, nearest = torch.cdist(points.double(), centres.double().to(points.device)).min(1)
    good = distance <= reach * std
    counts = torch.bincount(nearest[good], minlength=len(centres))
    found = int((counts >= 0.1 * len(points) / len(centres)).sum())
    return MixtureCoverage(tuple(counts.tolist()), found, float(good.double().mean()))
