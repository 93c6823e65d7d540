"""Figures of the images that a model draws, on features of a classifier of the same data: nothing is downloaded."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.data import LabelledDataset, TensorImages
from fastgen.data.images import eight_bits
from fastgen.evaluation import (
    FeatureNetwork,
    Quality,
    classifier_features,
    compare_features,
    features_of,
    nearest_neighbours,
)
from fastgen.models import AutoregressiveModel, Model, TranslationModel
from fastgen.sampling import sample_distributed
from fastgen.training.coverage import AT_ONCE, fit_classifier, labels_in_shares


@dataclass(frozen=True)
class Nearest:
    """Root of the mean squared difference to the nearest training image, in 8-bit levels, over a set of images.

    Attributes:
        mean: over the images.
        least: of the image that is nearest to one.
    """

    mean: float
    least: float


@dataclass(frozen=True)
class SampleQuality:
    """Drawn images beside held-out ones, and training images in their place, which is what a perfect copier reaches.

    Attributes:
        drawn: figures of the drawn images.
        training: figures of as many training images (fewer where there are fewer).
        nearest_drawn: from drawn images to the training images; far below `nearest_held_out`, the model copies.
        nearest_held_out: from held-out images to the training images.
        notes: what is wrong with the figures, for example too few images.
    """

    drawn: Quality
    training: Quality
    nearest_drawn: Nearest
    nearest_held_out: Nearest
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Five lines, the first with the name of the features."""
        drawn, near, far = self.drawn, self.nearest_drawn, self.nearest_held_out
        return "\n".join(
            [
                f"on features of {drawn.features}, beside {drawn.reference} held-out images:",
                f"  {drawn.images} drawn: {drawn}",
                f"  {self.training.images} of the training images: {self.training}",
                f"  nearest training image, in levels: of drawn ones {near.mean:.2f} in the mean, {near.least:.2f} at "
                f"the least; of held-out ones {far.mean:.2f} and {far.least:.2f}",
                *(f"  note: {note}" for note in self.notes),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            **self.drawn.to_json(),
            "of_training_images": self.training.to_json(),
            "nearest_training_image": {"drawn": asdict(self.nearest_drawn), "held_out": asdict(self.nearest_held_out)},
            "notes": list(self.notes),
        }


def data_features(data: LabelledDataset, *, seed: int = 0, steps: int = 300) -> FeatureNetwork:
    """Features of a small convolutional classifier of `data`, a function of the data and the seed.

    Without labels it learns to tell by how many quarters a square image was turned, or how another one was mirrored
    (Gidaris et al. 2018). The name is `classifier:DATA:seedN`, or `turns:DATA:seedN` where there are no labels.
    """
    labelled = data.n_classes > 1
    task = data if labelled else _turned(data)
    name = f"{'classifier' if labelled else 'turns'}:{data.name}:seed{seed}"
    return classifier_features(fit_classifier(task, steps=steps, seed=seed), data, name, of_classes=labelled)


def sample_quality(
    model: Model,
    training: LabelledDataset,
    held_out: LabelledDataset,
    *,
    n: int,
    network: FeatureNetwork | None = None,
    seed: int = 0,
    distributed: bool = False,
) -> SampleQuality:
    """Draw n images, with labels in the shares of the training images, and compare them with held-out ones.

    A model of images given others (colours, a larger image) is given the held-out images in turn. The global random
    generators are left as they were.

    Args:
        model: of images of the sets' shape and levels.
        training: what it was trained on.
        held_out: what drawn images are compared with.
        n: images to draw, 10 at least.
        network: whose features; by default `data_features(training, seed=seed)`.
        seed: of the noise, of subsets and of the classifier.
        distributed: the processes of `torch.distributed` draw together, all of which call this with the same arguments
            and get the same figures.

    Raises:
        ValueError: a model of signals or one that translates, images that are not of 1 or 3 channels and at most 256
            levels, or too few images.
    """
    if isinstance(model, TranslationModel):
        raise ValueError(
            f"sample_quality: a model must draw images like those it is trained on; {type(model).__name__} translates "
            "them; leave the quality of samples out"
        )
    if len(model.axes) != 2 or training.shape[0] not in (1, 3) or training.levels > 256:
        raise ValueError(
            f"sample_quality: features are of images of 1 or 3 channels; {type(model).__name__} draws "
            f"{training.shape[0]} channels of {', '.join(model.axes)}; leave the quality of samples out"
        )
    if n < 10 or len(held_out) < 10 or len(training) < 10:
        raise ValueError(
            f"sample_quality: there must be 10 images or more to draw, to train on and to compare with; got {n}, "
            f"{len(training)} and {len(held_out)}"
        )
    network = network or data_features(training, seed=seed)
    drawn = draw_like(model, training, held_out, n, seed, distributed)
    few = torch.arange(min(n, len(training)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        reference = features_of(network, held_out)

        def beside(images: Tensor) -> Quality:
            found = features_of(network, eight_bits(images, training.levels))
            return compare_features(network.name, found, reference, seed=seed)

        of_drawn, of_training = beside(drawn), beside(training.batch(few)[0])
    known = dict.fromkeys(str(warning.message) for warning in caught)
    return SampleQuality(
        drawn=of_drawn,
        training=of_training,
        nearest_drawn=_nearest(drawn, training),
        nearest_held_out=_nearest(held_out.tensors()[0], training),
        notes=tuple(known),
    )


def draw_like(
    model: Model, training: LabelledDataset, held_out: LabelledDataset, n: int, seed: int, distributed: bool = False
) -> Tensor:
    """Draw n images under conditions as those of the data. Shapes: -> levels [n, C, H, W], on the CPU."""
    cond: Any = None
    if model.config.get("cond_channels"):
        device = next(model.parameters()).device
        x, labels = held_out.batch(torch.arange(n) % len(held_out))
        cond = model.condition_of(x.to(device), labels.to(device) if model.n_classes else None)
    elif model.n_classes:
        shares = F.one_hot(training.tensors()[1], model.n_classes).double().mean(0)
        cond = labels_in_shares(shares, n)
    # a causal model's own default suits its caches
    options: dict[str, Any] = {} if isinstance(model, AutoregressiveModel) else {"batch_size": AT_ONCE}
    draw = partial(sample_distributed, model) if distributed else model.sample
    return draw(n, seed=seed, cond=cond, **options).cpu()


def _turned(data: LabelledDataset) -> TensorImages:
    """Every image four times, turned or mirrored; which of the four is its label."""
    images = data.tensors()[0]
    if images.shape[2] == images.shape[3]:
        views = [images.rot90(turns, (2, 3)) for turns in range(4)]
    else:
        views = [images.flip(axes) for axes in ((), (2,), (3,), (2, 3))]
    labels = torch.arange(4).repeat_interleave(len(images))
    return TensorImages(data.name, eight_bits(torch.cat(views), data.levels), labels, tuple("0123"))


def _nearest(images: Tensor, training: LabelledDataset) -> Nearest:
    distances, _ = nearest_neighbours(images, training, 1)
    in_8_bits = distances[:, 0].double() * (255 / (training.levels - 1))
    return Nearest(float(in_8_bits.mean()), float(in_8_bits.min()))
