"""How many modes of its training data a model draws: classes told by a classifier, or components of a known mixture."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.data import LabelledDataset, batch_indices
from fastgen.data.images import eight_bits
from fastgen.data.ring import STD, ring_centres
from fastgen.evaluation import ClassCoverage, MixtureCoverage, class_coverage, mixture_coverage
from fastgen.models import ConvAutoencoder, Model
from fastgen.models.classifier import Classifier
from fastgen.sampling import sample_distributed

AT_ONCE = 256


def mode_coverage(
    model: Model, data: LabelledDataset, *, n: int = 1000, seed: int = 0, steps: int = 300, distributed: bool = False
) -> ClassCoverage | MixtureCoverage:
    """The modes of `data` among n images that the model draws: with labels, in the shares of the data.

    Of the points of `ring` the components are known. Elsewhere a small convolutional classifier is trained on `data`,
    from scratch, in `steps` steps; what it makes of an image that shows no class is chance, so read its confidence too.
    The global random generators are left as they were. With `distributed` the processes of `torch.distributed` draw
    together, all of which call this with the same arguments and get the same counts.

    Raises:
        ValueError: data without classes, or n < 1.
    """
    if n < 1 or data.n_classes < 2:
        raise ValueError(
            f"mode_coverage: there must be images to draw, and two classes or more in {data.name}; got n={n} and "
            f"{data.n_classes} classes"
        )
    labels = data.tensors()[1]
    shares = F.one_hot(labels, data.n_classes).double().mean(0)
    cond = labels_in_shares(shares, n) if model.n_classes else None
    draw = partial(sample_distributed, model) if distributed else model.sample
    drawn = draw(n, seed=seed, cond=cond, batch_size=AT_ONCE).cpu()
    if data.name == "ring":
        return mixture_coverage(drawn.flatten(1), ring_centres(), STD)
    classifier = fit_classifier(data, steps=steps, seed=seed)
    return class_coverage(eight_bits(drawn.to(torch.uint8), data.levels), classifier, shares)


def labels_in_shares(shares: Tensor, n: int) -> Tensor:
    """n labels, in order, as near to their shares as n allows. Shapes: [K] -> int64 [n]."""
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.searchsorted(shares.double().cumsum(0), places).clamp_max(len(shares) - 1)


def fit_classifier(data: LabelledDataset, *, steps: int = 300, seed: int = 0, lr: float = 2e-3) -> Classifier:
    """A small convolutional classifier of the images of `data` in 8 bits, in eval mode on the CPU; seeded.

    It is a function of the data and the seed. The global random generators are left as they were.
    """
    images, labels = data.tensors()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels, *size = data.shape
        start = ConvAutoencoder(channels, image_size=tuple(size), n_filters=(16, 32), hidden=64)
        classifier = Classifier(start, data.n_classes).train()
        optimizer = torch.optim.Adam([*start.encoder.parameters(), *classifier.head.parameters()], lr=lr)
        for step in range(steps):
            batch = batch_indices(len(images), min(64, len(images)), step, seed)
            loss = F.cross_entropy(classifier(eight_bits(images[batch], data.levels)), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return classifier.eval()
