"""How well a model tells images of another data set from images like those it was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.data import LabelledDataset, sweep
from fastgen.evaluation.bits import evaluating
from fastgen.models import EnergyModel
from fastgen.models.energy import area_under_roc


def outlier_auroc(
    model: EnergyModel, inside: LabelledDataset, outside: LabelledDataset, *, batch_size: int = 64
) -> float:
    """P(energy of an image of `outside` > energy of one of `inside`): the area under the ROC curve of the energy.

    1 tells the sets apart, 0.5 is chance, and below it the other set is taken for the more likely one.

    Raises:
        TypeError: a model without energy.
        ValueError: an empty set, or images that are not the model's.
    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017.
    """
    if not isinstance(model, EnergyModel):
        raise TypeError(
            f"outlier_auroc: model must be an EnergyModel; got {type(model).__name__}; likelihoods of images are known "
            "to prefer simpler images to those they were trained on"
        )
    for data in (inside, outside):
        if len(data) == 0:
            raise ValueError(f"outlier_auroc: {data.name} must have images; got none")
    return area_under_roc(_scores(model, inside, batch_size), _scores(model, outside, batch_size))


def _scores(model: EnergyModel, data: LabelledDataset, batch_size: int) -> Tensor:
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        return torch.cat([model.ood_score(x.to(device)) for x, _ in sweep(data, batch_size)])
