"""The inception score: whether a classifier is sure of each image, and of all images together is not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits: from 1 to the number of classes, higher is better."""

    value: float
    std: float


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> InceptionScore:
    """exp(mean_n KL(p(y | x_n) || mean_m p(y | x_m))), the mean over splits of shuffled images.

    It never looks at real images, and is biased downwards where a split has few: compare figures of the same numbers.

    Shapes: logits [N, K] of a classifier. Dtypes: any float; computed in float64.

    Raises:
        ValueError: other shapes, fewer images than splits, no splits, or logits that are not finite.
    Source: Salimans et al., "Improved Techniques for Training GANs", NIPS 2016.
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or not torch.isfinite(logits).all():
        raise ValueError(
            f"inception_score: logits must be finite, [N, K >= 2]; got {list(logits.shape)}; take a classifier's"
        )
    if not 1 <= splits <= len(logits):
        raise ValueError(
            f"inception_score: splits must be in 1..{len(logits)}, the number of images; got {splits}; draw more images"
        )
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    log_p = logits.double()[order].log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        together = torch.logsumexp(part, 0) - torch.tensor(float(len(part)), dtype=torch.float64).log()
        scores.append((part.exp() * (part - together)).sum(1).mean().exp())
    values = torch.stack(scores)
    return InceptionScore(float(values.mean()), float(values.std(correction=0)))
