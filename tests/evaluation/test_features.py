"""Features: standardised over the data, the same whatever the batch, InceptionV3 from a local file or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.data import TensorImages
from fastgen.data.dataset import QuantisedImages
from fastgen.evaluation import FeatureNetwork, Features, classifier_features, features_of, inception_features
from fastgen.models import ConvAutoencoder
from fastgen.models.classifier import Classifier


def classifier() -> Classifier:
    return Classifier(ConvAutoencoder(1, image_size=(8, 8), n_filters=(4,), hidden=6), 3).eval()


def images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)


def test_features_of_the_data_have_mean_0_and_deviation_1() -> None:
    data, net = TensorImages("data", images(50), torch.zeros(50, dtype=torch.int64)), classifier()
    network = classifier_features(net, data, "classifier:data")
    found = features_of(network, data, batch_size=7)
    assert found.vectors.shape == (50, 6) and network.name == "classifier:data"
    raw = net.features(data.tensors()[0]).detach()
    alive = raw.std(0) > 1e-6
    assert int(alive.sum()) >= 2
    torch.testing.assert_close(found.vectors.mean(0)[alive], torch.zeros(int(alive.sum())).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        found.vectors.std(0, correction=0)[alive], torch.ones(int(alive.sum())).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.logits, net(data.tensors()[0]).detach())
    one = features_of(network, data.tensors()[0][:1]).vectors
    torch.testing.assert_close(one, found.vectors[:1], rtol=1e-4, atol=1e-5)
    assert features_of(classifier_features(net, data, "turns", of_classes=False), data).logits is None


def test_levels_of_a_data_set_become_those_of_8_bits() -> None:
    data = TensorImages("data", images(5), torch.zeros(5, dtype=torch.int64))
    network = FeatureNetwork("levels", lambda x: Features(x.flatten(1).double(), None))
    two = features_of(network, QuantisedImages(data, 2)).vectors
    assert set(two.unique().tolist()) == {0.0, 255.0}
    with pytest.raises(ValueError, match="must be images; got none"):
        features_of(network, images(0))


def test_inception_is_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="must be a local file, which is never downloaded"):
        inception_features(tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"pip install 'fastgen-torch\[fidelity\]'"):
        inception_features(tmp_path / "weights.pth")


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random weights of torch-fidelity's own network."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    empty, path = tmp_path / "empty.pth", tmp_path / "weights.pth"
    torch.save({}, empty)
    with monkeypatch.context() as patch:
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        net = module.FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_of_a_local_file_is_torch_fidelitys(inception: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = inception_features(inception)
    assert network.name == "inception-v3:weights.pth"
    gray = images(2)
    found = features_of(network, gray)
    theirs: Any = FeatureExtractorInceptionV3("net", ["2048"], feature_extractor_weights_path=str(inception))
    torch.testing.assert_close(found.vectors, theirs(gray.expand(-1, 3, -1, -1))[0])
    assert found.vectors.shape == (2, 2048) and found.logits is not None and found.logits.shape == (2, 1008)
    torch.save({"a": torch.zeros(1)}, inception)
    with pytest.raises(ValueError, match="must hold the weights of torch-fidelity's InceptionV3"):
        inception_features(inception)
