"""What an encoder helps a classifier: accuracy at several numbers of labels, beside the same from scratch."""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._files import atomic_write
from fastgen.data import LabelledDataset, batch_indices
from fastgen.models import Model
from fastgen.models.classifier import Classifier
from fastgen.training.device import environment, pick_device

TABLE_JSON, TABLE_MD = "classifier.json", "classifier.md"
BATCH = 64
AT_ONCE = 512  # images whose classes are told side by side


@dataclass(frozen=True)
class Row:
    """Accuracies on held-out images after training with `labels` labels, one for each repeat.

    Attributes:
        labels: labelled training images.
        pretrained: of the classifier that starts from the trained encoder.
        scratch: of the same network with fresh weights, all of them trained.
    """

    labels: int
    pretrained: tuple[float, ...]
    scratch: tuple[float, ...]


def train_classifier(
    model: Model,
    train_set: LabelledDataset,
    held_out: LabelledDataset,
    out: str | os.PathLike[str],
    *,
    frozen: bool = False,
    counts: Sequence[int | None] = (50, 100, 500, None),
    steps: int = 300,
    lr: float = 1e-3,
    repeats: int = 3,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Train classifiers on the encoder of `model` and from scratch, and write the table of their accuracies.

    All take as many steps of Adam on batches of 64 (fewer where there are fewer labels), from the same images in the
    same order; a repeat has other labelled images, an equal number of each class as far as there are, and other
    fresh weights. The folder `out` gets `classifier.json` and `classifier.md`. The global random generators are left
    as they were.

    Args:
        model: the trained model; it is not changed.
        train_set: images with labels; `counts` are taken from it, None is all of them.
        held_out: images with labels that accuracies are measured on.
        out: the folder of the tables.
        frozen: keep the encoder's weights and train the last layer alone; from scratch all weights are trained.
        counts: numbers of labels, each at least one for each class.
        steps: of Adam.
        lr: learning rate, which falls to zero along a cosine.
        repeats: how often each number of labels is tried.
        seed: decides labelled images, batches and fresh weights.
        device: "auto" (CUDA if there is one), "cpu", "cuda", ...
        report: told each row when it is known.

    Raises:
        ValueError: data without labels or with labels out of range, numbers of labels that there are not, images that
            are not the model's, a model without encoder.
    """
    n_classes = train_set.n_classes
    if n_classes < 2 or held_out.n_classes != n_classes:
        raise ValueError(
            f"train classifier: both sets must have the same two classes or more; got {n_classes} of {train_set.name} "
            f"and {held_out.n_classes} of {held_out.name}"
        )
    if steps < 1 or repeats < 1 or not 0 < lr < math.inf:
        raise ValueError(
            f"train classifier: steps and repeats must be at least 1, lr positive; got {steps}, {repeats}, {lr}"
        )
    where = pick_device(device)
    images, labels = (t.to(where) for t in train_set.tensors())
    unseen = tuple(t.to(where) for t in held_out.tensors())
    devices = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices):
        check = Classifier(copy.deepcopy(model).to(where), n_classes, frozen=frozen)
    check.check_labels(unseen[1])
    labels = check.check_labels(labels)
    check.model.prepare_input(images[:1])
    numbers = [len(labels) if count is None else count for count in counts]
    for count in numbers:
        if not n_classes <= count <= len(labels):
            raise ValueError(
                f"train classifier: numbers of labels must be in {n_classes}..{len(labels)}, one for each class at "
                f"least; got {count}"
            )
    rows = []
    with torch.random.fork_rng(devices):
        for count in numbers:
            found: dict[bool, list[float]] = {True: [], False: []}
            for repeat in range(repeats):
                chosen = balanced(labels, count, seed + repeat)
                for pretrained in (True, False):
                    torch.manual_seed(seed + repeat)
                    start = copy.deepcopy(model) if pretrained else type(model).from_config(model.config)
                    classifier = Classifier(start.to(where), n_classes, frozen=frozen and pretrained)
                    _fit(classifier, images[chosen], labels[chosen], steps, lr, seed + repeat)
                    found[pretrained].append(accuracy(classifier, *unseen))
            rows.append(Row(count, tuple(found[True]), tuple(found[False])))
            report(rows[-1])
    settings = {"model": type(model).__name__, "data": train_set.name, "frozen": frozen, "steps": steps, "lr": lr}
    settings |= {"repeats": repeats, "seed": seed, "held_out": len(held_out), "environment": environment(where)}
    write_tables(Path(out), rows, settings)
    return rows


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` images, of each class as many as of the others as far as there are; a function of the seed.

    Shapes: labels [N] -> [count].
    """
    order = batch_indices(len(labels), len(labels), 0, seed).to(labels.device)
    shuffled = labels[order]
    one_hot = F.one_hot(shuffled)
    rank = one_hot.cumsum(0).gather(1, shuffled[:, None])[:, 0]  # first, second, ... of its class
    return order[torch.argsort(rank, stable=True)[:count]]


def _fit(classifier: Classifier, x: Tensor, y: Tensor, steps: int, lr: float, seed: int) -> None:
    """Minimise the cross-entropy; of a frozen encoder the features are found once."""
    classifier.train()
    classifier.model.train(not classifier.frozen)
    with torch.no_grad():
        features = _in_parts(classifier.features, x)
    classifier.standardise(features)
    inputs, forward = (features, classifier.classify) if classifier.frozen else (x, classifier.forward)
    weights = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=lr)
    size = min(BATCH, len(x))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = batch_indices(len(x), size, step, seed).to(x.device)
        loss = F.cross_entropy(forward(inputs[batch]), y[batch])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"train classifier: the loss must be finite; got {float(loss.detach())} at step {step}, whose "
                f"images were {batch.tolist()[:16]} of the labelled ones; lower lr"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(classifier: Classifier, x: Tensor, y: Tensor) -> float:
    """Share of the images whose most probable class is their label, in eval mode. Shapes: [N, C, H, W], [N]."""
    classifier.eval()
    return float((_in_parts(classifier, x).argmax(1) == y).double().mean())


def _in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(AT_ONCE)])


def table(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The accuracies as Markdown: means over the repeats and their standard errors."""
    how = "frozen" if settings["frozen"] else "fine-tuned"
    lines = [f"| labels | encoder of {settings['model']}, {how} | from scratch |", "|--:|--:|--:|"]
    lines += [f"| {row.labels:,} | {_percent(row.pretrained)} | {_percent(row.scratch)} |" for row in rows]
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1%}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.1%}"


def write_tables(out: Path, rows: Sequence[Row], settings: dict[str, Any]) -> None:
    """Write the rows as JSON, and the table with a line on how it came about."""
    out.mkdir(parents=True, exist_ok=True)
    record = {**settings, "rows": [asdict(row) for row in rows]}
    atomic_write(out / TABLE_JSON, json.dumps(record, indent=2) + "\n")
    text = (
        f"Accuracy on {settings['held_out']:,} held-out images of `{settings['data']}` after {settings['steps']} steps "
        f"with so many labels; ± is the standard error over {settings['repeats']} draws of the labelled images."
    )
    atomic_write(out / TABLE_MD, f"{table(rows, settings)}\n\n{text}\n")
