"""Add and subtract what groups of images have in common: A - B + C with the mean codes of three labels.

The first row decodes the three means and the result; below lie images of C, and the same moved by A - B. An adversarial
model has no encoder: its codes are drawn, and have the label of the training image that is nearest to what they show.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from fastgen.cli import _latent, _runs

if TYPE_CHECKING:
    import torch

    from fastgen.data import LabelledDataset
    from fastgen.models import AdversarialModel, LatentModel

SUMMARY = "A - B + C with the mean codes of three labels"
NAME = "arithmetic.png"
DRAWN = 1024  # codes of an adversarial model, among which the groups are found


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _latent.add_arguments(parser, NAME)
    for name, what in (("a", "added"), ("b", "taken away"), ("c", "added to")):
        parser.add_argument(name, metavar=name.upper(), type=int, help=f"label of the group that is {what}")
    parser.add_argument("--seed", type=int, default=0, help="of an adversarial model: seed of the codes (default: 0)")
    _latent.add_space(parser)
    parser.set_defaults(split="train")


def run(args: argparse.Namespace) -> int:
    """Compute and write."""
    import torch

    from fastgen.models import AdversarialModel

    out = _latent.picture_path(args, NAME)
    model = _runs.load_model_with_codes(args.run_path, args.device)
    space = _latent.check_space(model, args.space)
    data = _runs.data_for(model, args.run_path, args.data, args.split)
    if data.n_classes == 0:
        raise ValueError(f"arithmetic: {data.name} must have labels, which make the groups; it has none")
    if isinstance(model, AdversarialModel):
        return _with_drawn_codes(model, data, args, space)
    indices = {label: _group(data, label) for label in (args.a, args.b, args.c)}
    means = {label: _mean_code(model, data, group) for label, group in indices.items()}
    shift = means[args.a] - means[args.b]
    chosen = indices[args.c][args.first : args.first + args.n]
    if len(chosen) < args.n:
        raise ValueError(f"{data.name} has {len(indices[args.c])} images of label {args.c}; ask for fewer with -n")
    x, cond = _latent.batch(model, data, chosen)
    with torch.no_grad():
        moved = model.images_of(model.code(x, cond) + shift, cond, expected=True)
    codes = torch.stack([means[args.a], means[args.b], means[args.c], means[args.c] + shift])
    labels = torch.tensor([args.a, args.b, args.c, args.c]) if model.n_classes else None
    top = model.images_of(codes, labels, expected=True)
    _latent.write_rows_of_any_length(out, [top, _runs.eight_bits(x, model.levels), moved])
    print(
        f"codes of labels {args.a} - {args.b} + {args.c}: the means and the result above, images of {args.c} and the "
        f"same moved by {args.a} - {args.b} below: {out}"
    )
    return 0


def _with_drawn_codes(
    model: AdversarialModel, data: LabelledDataset, args: argparse.Namespace, space: dict[str, Any]
) -> int:
    """The same for codes of a prior, whose labels are those of the nearest images of `data`."""
    import torch

    from fastgen.evaluation import nearest_neighbours
    from fastgen.models.adversarial import StyleModel

    if model.n_classes:
        raise ValueError("arithmetic: the model is given the label, so that codes have none; take one without classes")
    for label in (args.a, args.b, args.c):
        _check_label(data, label)
    out = _latent.picture_path(args, NAME)
    codes = model.draw_latent(DRAWN, seed=args.seed)
    drawn = torch.cat([model.images_of(part) for part in codes.split(256)])
    _, nearest = nearest_neighbours(drawn, data, 1)
    labels = data.batch(nearest[:, 0].cpu())[1].to(codes.device)
    groups = {label: (labels == label).nonzero().flatten() for label in (args.a, args.b, args.c)}
    for label, found in groups.items():
        wanted = args.first + args.n if label == args.c else 1
        if len(found) < wanted:
            raise ValueError(
                f"arithmetic: {len(found)} of {DRAWN} drawn images are nearest to one of label {label}, {wanted} are "
                "needed; ask for fewer with -n, or for another --seed"
            )
    a, b, c = (codes[groups[label]] for label in (args.a, args.b, args.c))
    result = model.arithmetic(a, b, c, **space)
    if isinstance(model, StyleModel) and space:
        with torch.no_grad():
            a, b, c = (model.map(group) for group in (a, b, c))
    top = model.images_of(torch.stack([a.mean(0), b.mean(0), c.mean(0), result]), **space)
    chosen = c[args.first : args.first + args.n]
    moved = model.images_of(chosen + result - c.mean(0), **space)
    _latent.write_rows_of_any_length(out, [top, model.images_of(chosen, **space), moved])
    print(
        f"drawn {'styles' if space else 'codes'} of labels {args.a} - {args.b} + {args.c} ({len(a)}, {len(b)} and "
        f"{len(c)} of {DRAWN}): the means and the result above, images of {args.c} and the same moved by {args.a} - "
        f"{args.b} below: {out}"
    )
    return 0


def _check_label(data: LabelledDataset, label: int) -> None:
    """Refuse a label that the data does not have.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= label < data.n_classes:
        raise ValueError(f"arithmetic: labels of {data.name} are 0 to {data.n_classes - 1}; got {label}")


def _group(data: LabelledDataset, label: int) -> torch.Tensor:
    """Numbers of the images of a label.

    Raises:
        ValueError: there are none.
    """
    import torch

    _check_label(data, label)
    labels = torch.cat([part for _, part in _sweep(data)])
    found = (labels == label).nonzero().flatten()
    if not len(found):
        raise ValueError(f"arithmetic: {data.name} has no image of label {label} in this split; choose another --split")
    return found


def _sweep(data: LabelledDataset) -> Any:
    from fastgen.data import sweep

    return sweep(data, 256)


def _mean_code(model: LatentModel, data: LabelledDataset, indices: torch.Tensor) -> torch.Tensor:
    """Mean code of images by their numbers."""
    parts = [(len(part), model.mean_code(*_latent.batch(model, data, part))) for part in indices.split(256)]
    total: torch.Tensor = sum(n * mean for n, mean in parts)  # type: ignore[assignment]
    return total / len(indices)
