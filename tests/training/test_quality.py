"""The quality of samples: data beside itself is near, noise is far, on features that say their name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.data import TensorImages, TensorSignals
from fastgen.data.dataset import QuantisedImages
from fastgen.evaluation import features_of
from fastgen.likelihoods import Gaussian
from fastgen.models import VAE, GatedPixelCNN, WaveNet
from fastgen.training.coverage import fit_classifier, labels_in_shares
from fastgen.training.quality import data_features, draw_like, sample_quality

Data = tuple[TensorImages, TensorImages]


def stripes(n: int, seed: int) -> TensorImages:
    """Bright rows or columns of any strength."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    strength = torch.randint(80, 200, (n, 1, 1), generator=generator)
    pattern = (torch.arange(8) % 4 < 2).long()
    rows, columns = pattern[:, None].expand(8, 8), pattern[None, :].expand(8, 8)
    picture = torch.where(labels[:, None, None] == 0, rows, columns) * strength
    noise = torch.randint(0, 40, (n, 8, 8), generator=generator)
    return TensorImages("stripes", (picture + noise).to(torch.uint8)[:, None], labels, ("rows", "columns"))


class Copier(VAE):
    """Draws given images, whatever the noise."""

    images: Tensor

    def sample(self, n: int, **options: Any) -> Tensor:  # type: ignore[override]
        return self.images[:n]


def drawing(images: Tensor) -> Copier:
    model = Copier(1, 2, (4,), image_size=(8, 8), likelihood=Gaussian(1))
    model.images = images
    return model


def test_held_out_images_are_near_and_noise_is_far() -> None:
    train, held_out, others = stripes(120, 0), stripes(90, 1), stripes(90, 2)
    network = data_features(train, steps=40)
    assert network.name == "classifier:stripes:seed0"
    state = torch.get_rng_state()
    good = sample_quality(drawing(others.tensors()[0]), train, held_out, n=90, network=network)
    bad = sample_quality(
        drawing(torch.randint(0, 256, (90, 1, 8, 8), dtype=torch.uint8)), train, held_out, n=90, network=network
    )
    torch.set_rng_state(state)
    assert bad.drawn.frechet > 10 * good.drawn.frechet and bad.drawn.kernel.value > 10 * abs(good.drawn.kernel.value)
    assert bad.drawn.neighbours.precision < 0.5 < good.drawn.neighbours.precision
    assert good.drawn.score is not None and good.drawn.score.value > 1.8
    assert good.training == bad.training and good.training.images == 90
    assert abs(good.nearest_drawn.mean - good.nearest_held_out.mean) < 2 < bad.nearest_drawn.mean
    assert str(good).startswith("on features of classifier:stripes:seed0, beside 90 held-out images:")
    said = json.loads(json.dumps(good.to_json()))
    assert said["features"] == "classifier:stripes:seed0" and said["images"] == said["reference_images"] == 90
    assert said["frechet_distance"] == good.drawn.frechet and said["kernel_distance"] == good.drawn.kernel.value
    assert said["of_training_images"]["recall"] == good.training.neighbours.recall


def test_a_copier_is_seen_by_its_nearest_neighbours_and_few_images_are_noted() -> None:
    train, held_out = stripes(40, 0), stripes(20, 1)
    found = sample_quality(drawing(train.tensors()[0]), train, held_out, n=30, network=data_features(train, steps=2))
    assert found.nearest_drawn.mean == found.nearest_drawn.least == 0 < found.nearest_held_out.least
    assert len(found.notes) == 1 and "singular covariance of 64 features" in found.notes[0]
    assert "note: frechet_distance: 20 images" in str(found)


def test_features_without_labels_are_of_turned_images() -> None:
    labelled = stripes(30, 0)
    images = labelled.tensors()[0]
    for x in (images, images[:, :, :6]):
        network = data_features(TensorImages("plain", x, torch.full((30,), -1)), steps=2)
        assert network.name == "turns:plain:seed0"
        assert features_of(network, x).logits is None


def test_a_classifier_of_two_levels_sees_them() -> None:
    data = QuantisedImages(stripes(60, 0), 2)
    eight = data.tensors()[0] * 255
    found = fit_classifier(data, steps=30)(eight).argmax(1)
    assert float((found == data.tensors()[1]).double().mean()) > 0.9


def test_labels_come_in_the_shares_of_the_data() -> None:
    assert labels_in_shares(torch.tensor([0.5, 0.0, 0.25, 0.25]), 8).tolist() == [0, 0, 0, 0, 2, 2, 3, 3]
    train = stripes(20, 0)
    few = TensorImages("few", train.tensors()[0], torch.tensor([1] * 15 + [0] * 5), ("a", "b"))
    asked: list[Tensor] = []

    class Asked(GatedPixelCNN):
        def sample(self, n: int, **options: Any) -> Tensor:  # type: ignore[override]
            asked.append(options["cond"])
            return torch.zeros(n, 1, 8, 8, dtype=torch.uint8)

    draw_like(Asked(1, n_layers=1, n_filters=2, n_classes=2, image_size=(8, 8)), few, train, 8, 0)
    assert asked[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_what_has_no_features_is_refused() -> None:
    train = stripes(20, 0)
    with pytest.raises(
        ValueError, match="10 images or more to draw, to train on and to compare with; got 9, 20 and 20"
    ):
        sample_quality(drawing(train.tensors()[0]), train, train, n=9)
    sounds = TensorSignals("sounds", torch.zeros(20, 1, 16, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    with pytest.raises(ValueError, match="WaveNet draws 1 channels of T"):
        sample_quality(WaveNet(length=16), sounds, sounds, n=10)
