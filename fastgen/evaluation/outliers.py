"""How well a model tells images of another data set from images like those it was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.data import LabelledDataset
from fastgen.evaluation.each_image import of_each_image
from fastgen.models import EnergyModel, Model
from fastgen.models.energy import area_under_roc


def outlier_auroc(
    model: Model, inside: LabelledDataset, outside: LabelledDataset, *, batch_size: int = 64, distributed: bool = False
) -> float:
    """P(score of an image of `outside` > score of one of `inside`): the area under the ROC curve.

    The score is the energy, or -log p(x) in nats (a bound of it where that is what the model has; of a model that is
    conditioned on labels of p(x) = mean over labels of p(x | label), as an image of another set has none of them).
    1 tells the sets apart, 0.5 is chance, and below it the other set is taken for the more likely one: likelihoods are
    known to prefer simpler images to those they were trained on (Nalisnick et al. 2019). The global random generators
    are left as they were. With `distributed` the batches are shared as in `evaluate`.

    Raises:
        TypeError: a model with neither energy nor likelihood.
        ValueError: an empty set, or images that are not the model's.
    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017;
        Nalisnick et al., "Do Deep Generative Models Know What They Don't Know?", ICLR 2019.
    """
    for data in (inside, outside):
        if len(data) == 0:
            raise ValueError(f"outlier_auroc: {data.name} must have images; got none")
    scores = (outlier_scores(model, data, batch_size, distributed=distributed) for data in (inside, outside))
    return area_under_roc(*scores)


def outlier_scores(model: Model, data: LabelledDataset, batch_size: int = 64, *, distributed: bool = False) -> Tensor:
    """What `outlier_auroc` compares, higher for what is less like the training images. Shapes: -> [N]."""
    found = of_each_image(model, data, batch_size, lambda x, _: {"score": _scores(model, x)}, distributed=distributed)
    return found["score"].cpu()


def _scores(model: Model, x: Tensor) -> Tensor:
    if isinstance(model, EnergyModel):
        return model.ood_score(x)
    labels: list[Tensor | None] = [torch.full((len(x),), label, device=x.device) for label in range(model.n_classes)]
    of_labels = []
    for label in labels or [None]:
        figures = model.held_out(x, model.condition_of(x, label))
        if "nats" not in figures:
            raise TypeError(
                f"outlier_auroc: model must have an energy or a likelihood; got {type(model).__name__}; take a run of "
                "an EnergyModel, an autoregressive or a variational one"
            )
        of_labels.append(-figures["nats"].double())
    return math.log(len(of_labels)) - torch.stack(of_labels).logsumexp(0)
