"""Networks whose features images are compared by: a classifier of the same data, or InceptionV3."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.data import LabelledDataset, sweep
from fastgen.data.images import eight_bits
from fastgen.models.classifier import Classifier


class Features(NamedTuple):
    """What a network says of N images.

    Attributes:
        vectors: [N, F], of the layer before the last one.
        logits: [N, K] of the classes, or None where they are no classes of images.
    """

    vectors: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that features are taken of.

    Attributes:
        name: what a figure must say beside it, as figures of different networks do not compare.
        features: of 8-bit images, uint8 [N, C, H, W].
    """

    name: str
    features: Callable[[Tensor], Features]


def features_of(network: FeatureNetwork, images: Tensor | LabelledDataset, *, batch_size: int = 256) -> Features:
    """Features of all images of a set, on the CPU.

    Shapes: images uint8 [N, C, H, W] of 256 levels, or a data set, of any number of levels.
    The network must be in eval mode: an image's features then do not depend on its batch.

    Raises:
        ValueError: no images.
    """
    if not len(images):
        raise ValueError("features_of: there must be images; got none; draw or load some")
    if isinstance(images, Tensor):
        parts = list(images.split(batch_size))
    else:
        parts = [eight_bits(x, images.levels) for x, _ in sweep(images, batch_size)]
    with torch.inference_mode():
        found = [network.features(part) for part in parts]
    vectors = torch.cat([part.vectors.cpu() for part in found])
    logits = [part.logits.cpu() for part in found if part.logits is not None]
    return Features(vectors, torch.cat(logits) if logits else None)


def classifier_features(
    classifier: Classifier, data: LabelledDataset, name: str, *, of_classes: bool = True
) -> FeatureNetwork:
    """The features that the last layer of a classifier reads, each with mean 0 and deviation 1 over `data`.

    A distance of them does not depend on the scale that training happened to give them; one that never changes on
    `data` is only moved. Logits are there if they are of classes of images.
    """
    device = next(classifier.parameters()).device

    def raw(images: Tensor) -> Features:
        found = classifier.features(images.to(device))
        return Features(found, classifier.classify(found) if of_classes else None)

    vectors = features_of(FeatureNetwork(name, raw), data).vectors.double()
    std, mean = torch.std_mean(vectors, 0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)

    def features(images: Tensor) -> Features:
        found = raw(images)
        return Features((found.vectors.cpu().double() - mean) / std, found.logits)

    return FeatureNetwork(name, features)


def inception_features(weights: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The 2048 features of torch-fidelity's InceptionV3, which published figures are of, and its logits without bias.

    Images are resized to 299 x 299 as in the original TensorFlow graph; gray ones become RGB.

    Args:
        weights: a local file, `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's releases; nothing is
            downloaded.
        device: where the network runs.

    Raises:
        ValueError: torch-fidelity is not installed, or the file holds no weights of that network.
        FileNotFoundError: no such file.
    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; Obukhov et al.,
        "High-fidelity performance metrics for generative models in PyTorch", 2020.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"inception_features: the weights must be a local file, which is never downloaded here; got {path}; take "
            "weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases, or leave --inception out"
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError(
            "inception_features: InceptionV3 comes with torch-fidelity, which is not installed; "
            "pip install 'fastgen-torch[fidelity]', or leave --inception out"
        ) from error
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # no pickle that runs code gets any further
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=os.fspath(path)
        )
    except Exception as error:  # of whatever type: a damaged file, missing keys, another network
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"inception_features: {path} must hold the weights of torch-fidelity's InceptionV3; got {first}"
        ) from error
    network = network.to(device).eval()

    def features(images: Tensor) -> Features:
        vectors, logits = network(images.to(device).expand(-1, 3, -1, -1))
        return Features(vectors, logits)

    return FeatureNetwork(f"inception-v3:{path.name}", features)
