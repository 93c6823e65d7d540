"""Figures of each class, intervals, reconstructions and outliers are those that loops over the images give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgen.data import TensorImages
from fastgen.evaluation import evaluate, evaluate_classes, outlier_auroc, reconstruction_error
from fastgen.evaluation.bits import HeldOut
from fastgen.evaluation.classes import OneClass
from fastgen.evaluation.outliers import outlier_scores
from fastgen.likelihoods import Bernoulli, Gaussian
from fastgen.models import DCGAN, VAE, ConditionalVAE, GatedPixelCNN, PixelCNN


def images(n: int, levels: int = 256) -> TensorImages:
    labels = torch.tensor([0, 2, 2])[torch.arange(n) % 3]  # none of class 1
    return TensorImages("data", torch.randint(0, levels, (n, 1, 6, 6), dtype=torch.uint8), labels, ("a", "b", "c"))


def pixelcnn() -> PixelCNN:
    return PixelCNN(1, n_blocks=1, n_filters=2, image_size=(6, 6)).eval()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_every_image_has_the_same_weight_whatever_the_batch(batch_size: int) -> None:
    data, model = images(14), pixelcnn()
    found = evaluate(model, data, batch_size=batch_size)
    one_by_one = torch.cat([-model.log_prob(x[None]).detach().double() for x, _ in data])
    assert (found.images, found.dims) == (14, 36)
    assert found.nats == pytest.approx(float(one_by_one.mean()), rel=1e-6)
    assert found.bits_per_dim == pytest.approx(float(one_by_one.mean()) / (36 * math.log(2)), rel=1e-6)


def test_classes_are_measured_alone_and_weigh_up_to_the_whole() -> None:
    data, model = images(14), pixelcnn()
    found = evaluate_classes(data, lambda part: evaluate(model, part, batch_size=3), batch_size=4)
    assert list(found) == [0, 2] and [result.images for result in found.values()] == [5, 9]
    x, y = data.tensors()
    for label, result in found.items():
        nats = -model.log_prob(x[y == label]).detach().double()
        assert result.nats == pytest.approx(float(nats.mean()), rel=1e-6)
        spread = float(nats.std()) / (36 * math.log(2)) / math.sqrt(len(nats))
        assert result.stderr == pytest.approx(spread, rel=1e-5)
    whole = sum(result.nats * result.images for result in found.values()) / 14
    assert whole == pytest.approx(evaluate(model, data).nats, rel=1e-6)
    with pytest.raises(ValueError, match="data must have labels"):
        evaluate_classes(TensorImages("data", x, y), lambda part: evaluate(model, part))


def test_one_class_is_a_data_set_of_its_images() -> None:
    data = images(9)
    part = OneClass(data, torch.tensor([4, 1]))
    assert len(part) == 2 and part.shape == data.shape and part.in_memory and part.origin(0) == "4"
    assert torch.equal(part.tensors()[0], data.tensors()[0][[4, 1]])
    assert torch.equal(part[1][0], data[1][0])
    with pytest.raises(IndexError):
        part[2]


def test_an_interval_is_that_of_a_normal_mean() -> None:
    low, high = HeldOut(10, 5, nats=1.0, bits_per_dim=2.0, stderr=0.1).interval()
    assert (low, high) == pytest.approx((2 - 0.195996, 2 + 0.195996), abs=1e-6)
    low, high = HeldOut(10, 5, stderr=0.1, others={"mse": 3.0}).interval(0.5)
    assert (low, high) == pytest.approx((3 - 0.0674490, 3 + 0.0674490), abs=1e-6)


@pytest.mark.parametrize("levels", [2, 256])
def test_reconstruction_errors_are_those_of_the_model(levels: int) -> None:
    data, model = (
        images(11, levels),
        VAE(1, 2, (5,), image_size=(6, 6), likelihood=Bernoulli(1)),
    )
    if levels == 256:
        model = VAE(1, 2, (5,), image_size=(6, 6), likelihood=Gaussian(1))
    found = reconstruction_error(model, data, batch_size=4)
    x = data.tensors()[0]
    back = model.reconstruct(x, expected=True)
    signal = x.double() / (levels - 1) * 2 - 1
    errors = (signal - (back.double() / 255 * 2 - 1)).square().flatten(1).mean(1)
    assert found.mse == pytest.approx(float(errors.mean()), rel=1e-9)
    assert found.stderr == pytest.approx(float(errors.std()) / math.sqrt(11), rel=1e-9)
    assert str(found).startswith(f"mse {found.mse:.4f} ± ")
    with pytest.raises(TypeError, match="model must have codes; got PixelCNN"):
        reconstruction_error(pixelcnn(), data)  # type: ignore[arg-type]


def roc(inside: Tensor, outside: Tensor) -> float:
    return float(((outside[:, None] > inside).double() + (outside[:, None] == inside).double() / 2).mean())


def test_outliers_are_scored_by_their_likelihood() -> None:
    model, inside, outside = pixelcnn(), images(10), images(13)
    nats = [-model.log_prob(data.tensors()[0]).detach().double() for data in (inside, outside)]
    assert outlier_auroc(model, inside, outside, batch_size=4) == pytest.approx(roc(*nats))
    assert outlier_auroc(model, inside, inside) == pytest.approx(0.5)


def test_an_outlier_has_no_label_so_labels_are_summed_over() -> None:
    model = GatedPixelCNN(1, n_layers=1, n_filters=2, n_classes=3, image_size=(6, 6)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    data = images(7)
    x = data.tensors()[0]
    each = torch.stack([model.log_prob(x, torch.full((7,), label)).detach().double() for label in range(3)])
    assert float(each.std(0).max()) > 1e-3  # the label matters
    torch.testing.assert_close(outlier_scores(model, data, 3), -each.exp().mean(0).log(), rtol=1e-6, atol=1e-6)


def test_bounds_are_scored_alike_every_time_and_what_has_no_density_is_refused() -> None:
    model = ConditionalVAE(1, 2, (5,), image_size=(6, 6), n_classes=3, likelihood=Gaussian(1))
    data = images(5)
    state = torch.get_rng_state()
    assert torch.equal(outlier_scores(model, data), outlier_scores(model, data))
    assert torch.equal(torch.get_rng_state(), state) and model.training
    gan = DCGAN(1, image_size=(8, 8), n_filters=(4, 4))
    others = TensorImages("x", torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="must have an energy or a likelihood; got DCGAN"):
        outlier_auroc(gan, others, others)
    with pytest.raises(ValueError, match="must have images; got none"):
        outlier_auroc(pixelcnn(), data, TensorImages("none", data.tensors()[0][:0], data.tensors()[1][:0]))
