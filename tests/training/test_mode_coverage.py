"""The classifier that counts modes can tell the classes, and a model that draws data covers all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.data import TensorImages, load
from fastgen.evaluation import ClassCoverage, MixtureCoverage
from fastgen.models import GAN
from fastgen.training.coverage import fit_classifier, mode_coverage


def stripes(n: int, share: float = 0.5) -> TensorImages:
    """Class 1, the given share, has bright columns, class 0 bright rows."""
    labels = (torch.arange(n) < share * n).long()
    line = (torch.arange(8) % 2 * 200).to(torch.uint8).expand(8, 8)
    x = torch.where(labels[:, None, None] == 0, line.T, line)
    noise = torch.randint(0, 40, x.shape, generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return TensorImages("stripes", (x + noise)[:, None], labels, ("rows", "columns"))


class Draws(GAN):
    """A generator that draws the images that it was given, the labels it is asked for noted."""

    images: Tensor
    asked: Any = None

    def sample(self, n: int, *, cond: Any = None, **options: Any) -> Tensor:  # type: ignore[override]
        self.asked = cond
        return self.images[torch.arange(n) % len(self.images)]


def model_of(images: Tensor) -> Draws:
    model = Draws(1, 2, (3,), image_size=(8, 8))
    model.images = images
    return model


def test_the_classifier_tells_unseen_images_and_is_a_function_of_the_seed() -> None:
    state = torch.get_rng_state()
    classifiers = [fit_classifier(stripes(200), steps=30) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    images, labels = stripes(64).tensors()
    with torch.no_grad():
        logits = [classifier(images) for classifier in classifiers]
    assert torch.equal(*logits)
    assert float((logits[0].argmax(1) == labels).float().mean()) == 1


def test_a_model_of_one_class_covers_one_class() -> None:
    data = stripes(200, share=0.25)
    images, labels = data.tensors()
    whole = mode_coverage(model_of(images), data, n=200, steps=30)
    assert isinstance(whole, ClassCoverage)
    assert whole.counts == (150, 50) and whole.found == 2 and whole.divergence < 1e-9 and whole.confidence > 0.9
    one = mode_coverage(model_of(images[labels == 1]), data, n=50, steps=30)
    assert isinstance(one, ClassCoverage)
    assert one.counts == (0, 50) and one.found == 1 and one.divergence == pytest.approx(1.386, abs=1e-3)


def test_a_conditional_model_is_asked_for_the_labels_of_the_data() -> None:
    data = stripes(200, share=0.25)
    model = model_of(data.tensors()[0])
    model.n_classes = 2
    mode_coverage(model, data, n=40, steps=1)
    assert torch.bincount(model.asked).tolist() == [30, 10]


def test_points_of_the_ring_cover_the_ring() -> None:
    data = load("ring")
    found = mode_coverage(model_of(data.tensors()[0]), data, n=500)
    assert isinstance(found, MixtureCoverage) and found.found == 8 and found.high_quality > 0.97


def test_bad_input_is_refused() -> None:
    data = stripes(20)
    with pytest.raises(ValueError, match="got n=0 and 2 classes"):
        mode_coverage(model_of(data.tensors()[0]), data, n=0)
    plain = TensorImages("plain", data.tensors()[0], torch.full((20,), -1))
    with pytest.raises(ValueError, match="two classes or more in plain"):
        mode_coverage(model_of(data.tensors()[0]), plain)
