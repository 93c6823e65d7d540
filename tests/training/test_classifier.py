"""Classifiers over encoders: frozen or fine-tuned, beside the same network from scratch; tables; bad input."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.cli import main
from fastgen.data import TensorImages
from fastgen.models import Autoencoder, ConditionalVAE, EnergyModel, PixelCNN
from fastgen.models.classifier import Classifier
from fastgen.models.serialization import save
from fastgen.training.classifier import TABLE_JSON, TABLE_MD, accuracy, balanced, train_classifier

Data = tuple[TensorImages, TensorImages]
SMALL: dict[str, Any] = {"image_size": (8, 8), "hidden": [24]}


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(7)
    return Autoencoder(**SMALL, latent_dim=4).eval()


def test_the_network_is_the_models_encoder_and_a_linear_layer(model: Autoencoder, data: Data) -> None:
    classifier = Classifier(model, 3)
    x, _ = data[0].tensors()
    features = model.encoder(model.prepare_input(x))
    classifier.standardise(features)
    standard = classifier.features(x).sub(classifier.mean) / classifier.std
    moving = features.std(0) > 1e-6
    torch.testing.assert_close(standard.mean(0), torch.zeros(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, unbiased=False)[moving], torch.ones(int(moving.sum())))
    torch.testing.assert_close(classifier(x), classifier.head(standard))


def test_models_without_an_encoder_module_give_their_features() -> None:
    class Plain(EnergyModel):
        def features(self, x: Tensor, cond: Any = None) -> Tensor:
            return self.prepare_input(x).mean((2, 3)).expand(-1, 5)

    plain = Plain(image_size=(8, 8), n_filters=2)
    del plain.encoder
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(Classifier(plain, 2).features(x), plain.features(x))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_table_has_both_networks_at_every_number_of_labels(
    model: Autoencoder, data: Data, tmp_path: Path, frozen: bool
) -> None:
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    rows = train_classifier(model, *data, tmp_path, frozen=frozen, counts=(4, None), steps=40, repeats=2, lr=1e-2)
    assert [row.labels for row in rows] == [4, 30]
    assert all(len(row.pretrained) == len(row.scratch) == 2 for row in rows)
    assert min(rows[1].pretrained) == min(rows[1].scratch) == 1.0  # rows against columns is easy
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    record = json.loads((tmp_path / TABLE_JSON).read_text())
    assert record["rows"][1] == {"labels": 30, "pretrained": [1.0, 1.0], "scratch": [1.0, 1.0]}
    assert (record["model"], record["frozen"], record["held_out"]) == ("Autoencoder", frozen, 10)
    text = (tmp_path / TABLE_MD).read_text()
    assert f"encoder of Autoencoder, {'frozen' if frozen else 'fine-tuned'}" in text
    assert "| 30 | 100.0% ± 0.0% | 100.0% ± 0.0% |" in text
    again = train_classifier(model, *data, tmp_path, frozen=frozen, counts=(4, None), steps=40, repeats=2, lr=1e-2)
    assert again == rows


def test_only_a_frozen_encoder_keeps_its_weights(
    model: Autoencoder, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastgen.training.classifier as module

    seen: list[tuple[bool, bool, bool]] = []
    weight = model.encoder.layers[0].weight.detach().clone()

    def watch(classifier: Classifier, x: Tensor, y: Tensor) -> float:
        now = classifier.model.encoder.layers[0].weight.detach()  # type: ignore[union-attr, index]
        seen.append((classifier.frozen, torch.equal(now, weight), bool((now - weight).abs().max() < 0.2)))
        return accuracy(classifier, x, y)

    monkeypatch.setattr(module, "accuracy", watch)
    for frozen in (True, False):
        train_classifier(model, *data, tmp_path, frozen=frozen, counts=(None,), steps=5, repeats=1)
    assert [entry[:2] for entry in seen] == [(True, True), (False, False), (False, False), (False, False)]
    assert seen[2][2] and not seen[3][2]  # fine-tuned from the trained weights, and from others


def test_a_good_encoder_shows_at_few_labels(data: Data, tmp_path: Path) -> None:
    """An encoder that already tells the classes: frozen it needs two labels, the other network more."""

    class Rows(nn.Module):
        n_features = 2

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.std(2).mean((1, 2)), x.std(3).mean((1, 2))], 1)

    model = Autoencoder(**SMALL, latent_dim=4)
    model.encoder = Rows()  # type: ignore[assignment]
    (row,) = train_classifier(model, *data, tmp_path, frozen=True, counts=(2,), steps=60, repeats=1, lr=0.1)
    assert row.pretrained == (1.0,)


@pytest.mark.parametrize("count", [3, 7, 20, 40])
def test_labels_are_balanced_as_far_as_there_are(count: int) -> None:
    labels = torch.tensor([0] * 25 + [1] * 12 + [2] * 3)
    chosen = balanced(labels, count, seed=1)
    assert len(set(chosen.tolist())) == count
    numbers = torch.bincount(labels[chosen], minlength=3).tolist()
    left = [total - number for total, number in zip((25, 12, 3), numbers)]
    short = [number for number, rest in zip(numbers, left) if rest]
    assert not short or max(numbers) - min(short) <= 1  # a class with fewer has none left
    assert not torch.equal(balanced(labels, count, seed=2), chosen)
    assert torch.equal(balanced(labels, count, seed=1), chosen)


def test_the_command_prints_the_table(
    model: Autoencoder, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(model, tmp_path / "m.safetensors")
    command = ["train", "classifier", "--encoder", str(tmp_path / "m.safetensors"), "--data", str(image_folder)]
    command += ["--device", "cpu", "--steps", "3", "--out", str(tmp_path / "run")]
    assert main([*command, "--freeze", "--labels", "4,all"]) == 0
    out, err = capsys.readouterr()
    assert "| labels | encoder of Autoencoder, frozen | from scratch |" in out and "| 27 |" in out
    assert "4 labels: done" in err and (tmp_path / "run" / TABLE_JSON).exists()
    for wrong, message in (
        ([*command, "--labels", "1,2"], "numbers of labels must be in 2..27"),
        ([*command, "--set", "lr=1"], "the classifier takes --data, --steps and --seed alone"),
        (["train", "classifier"], "--encoder: `fastgen train classifier` starts from a trained model"),
        (["train", "vae", "--freeze"], "--encoder, --freeze and --labels: they are for"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--labels", "some"])


def labelled(change: Callable[[Tensor], Tensor]) -> Callable[[Data], Data]:
    def spoilt(data: Data) -> Data:
        images, labels = data[0].tensors()
        return TensorImages("spoilt", images, change(labels), data[0].class_names), data[1]

    return spoilt


def same(data: Data) -> Data:
    return data


def unlabelled(data: Data) -> Data:
    return TensorImages("plain", *data[0].tensors()), data[1]


def coloured(data: Data) -> Data:
    images, labels = data[0].tensors()
    return TensorImages("colour", images.expand(-1, 3, -1, -1), labels, data[0].class_names), data[1]


SHAPE = dict(SMALL)
MISUSE: dict[str, tuple[Callable[[], nn.Module], Callable[[Data], Data], dict[str, Any], str]] = {
    "label range": (lambda: Autoencoder(**SHAPE), labelled(lambda y: y + 1), {}, r"labels must be in 0..1; got 2"),
    "unlabelled images": (lambda: Autoencoder(**SHAPE), labelled(lambda y: y - 1), {}, r"got -1; leave out unlabelled"),
    "no labels": (
        lambda: Autoencoder(**SHAPE),
        unlabelled,
        {},
        "two classes or more; got 0 of plain",
    ),
    "channels": (lambda: Autoencoder(**SHAPE), coloured, {}, r"x must be \[N, 1, H, W\]"),
    "size": (lambda: Autoencoder(**{**SHAPE, "image_size": (8, 9)}), same, {}, "size that the weights are for"),
    "counts": (lambda: Autoencoder(**SHAPE), same, {"counts": (31,)}, r"numbers of labels must be in 2..30, .* got 31"),
    "steps": (lambda: Autoencoder(**SHAPE), same, {"steps": 0}, "steps and repeats must be at least 1"),
    "no encoder": (lambda: PixelCNN(image_channels=1, image_size=(8, 8)), same, {}, "PixelCNN has no encoder to start"),
    "told the label": (lambda: ConditionalVAE(**SHAPE, n_classes=2), same, {}, "encoder of ConditionalVAE is told the"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str, data: Data, tmp_path: Path) -> None:
    build, change, options, message = MISUSE[name]
    with pytest.raises(ValueError, match=message):
        train_classifier(build(), *change(data), tmp_path, **{"steps": 1, "counts": (4,), **options})  # type: ignore[arg-type]
    assert not (tmp_path / TABLE_JSON).exists()


def test_float_labels_are_refused(model: Autoencoder) -> None:
    classifier = Classifier(model, 2)
    with pytest.raises(TypeError, match=r"labels must be integers; got torch.float32"):
        classifier.check_labels(torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels must be \[N\]"):
        classifier.check_labels(torch.zeros(3, 1, dtype=torch.int64))


def test_a_loss_that_is_not_finite_stops(model: Autoencoder, data: Data, tmp_path: Path) -> None:
    with torch.no_grad():
        model.encoder.layers[0].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the loss must be finite; got nan at step 0, whose images were \["):
        train_classifier(model, *data, tmp_path, counts=(4,), steps=1)
