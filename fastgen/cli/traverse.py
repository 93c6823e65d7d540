"""Write what each latent of a model does: a row a latent, from -span to +span standard deviations, the others fixed.

The rows are those latents that images use most, those whose codes spread most over the data. A model of two latents
gives the grid over both instead, at the quantiles of its prior. Of InfoGAN the rows are four codes for each latent that
can be read off its images: the values of a categorical one, -span to +span of one in [-1, 1].
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from fastgen.cli import _latent, _runs

if TYPE_CHECKING:
    import torch

    from fastgen.data import LabelledDataset
    from fastgen.models import AdversarialModel, LatentModel

SUMMARY = "what each latent does; of two latents the grid over both"
NAME = "traversal.png"
MOST = 1024  # images that tell which latents are used


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _latent.add_arguments(parser, NAME, n=None)
    parser.add_argument("-n", type=_runs.positive, default=10, help="how many latents, the most used (default: 10)")
    parser.add_argument("--dim", type=_runs.label_list, help="latents to show, for example 3 or 0,1,2")
    parser.add_argument("--steps", type=_runs.positive, default=11, help="images a row (default: 11)")
    parser.add_argument("--span", type=float, help="standard deviations to each side (default: 3; InfoGAN: 1)")
    parser.add_argument(
        "--prior", action="store_true", help="fix the other latents at the prior's mean, not at the image's --first"
    )
    parser.add_argument("--grid", type=_runs.positive, help="side of the grid over two latents (default: 20)")
    parser.add_argument("--class", dest="labels", type=_runs.label_list, help="the label, for a model that takes one")


def run(args: argparse.Namespace) -> int:
    """Traverse and write."""
    import torch

    from fastgen.models import AdversarialModel

    out = _latent.picture_path(args, NAME)
    model = _runs.load_model_with_codes(args.run_path, args.device)
    if isinstance(model, AdversarialModel):
        return _traverse_drawn(model, args)
    size = math.prod(model.latent_shape)
    wanted = _runs.labels(model, args.labels[:1] if args.labels else None, 1)
    if args.grid is not None or (size == 2 and args.dim is None):
        grid = args.grid or 20
        cond = None if wanted is None else wanted.expand(grid**2)
        _runs.write_images(out, model.manifold(grid, cond=cond, expected=True), columns=grid)
        print(f"grid of {grid}x{grid} codes: {out}")
        return 0
    data = _runs.data_for(model, args.run_path, args.data, args.split)
    dims = _most_used(model, data, min(args.n, size)) if args.dim is None else args.dim
    x, cond = _latent.images(model, data, args.first, 1)
    cond = cond if args.labels is None else wanted
    start = None if args.prior else x
    span = 3.0 if args.span is None else args.span
    rows = [model.traverse(d, steps=args.steps, span=span, x=start, cond=cond, expected=True)[0] for d in dims]
    _latent.write_rows(out, torch.stack(rows))
    print(f"latents {', '.join(map(str, dims))} of {size}, a row each: {out}")
    return 0


def _traverse_drawn(model: AdversarialModel, args: argparse.Namespace) -> int:
    """Rows of drawn codes, for each of the latents that the model can read.

    Raises:
        ValueError: a model that reads none.
    """
    from fastgen.models import InfoGAN

    if not isinstance(model, InfoGAN):
        raise ValueError(
            f"traverse: {type(model).__name__} has codes without latents of their own; take InfoGAN, or interpolate"
        )
    out = _latent.picture_path(args, NAME)
    span = 1.0 if args.span is None else args.span
    dims = args.dim or list(range(min(args.n, len(model.categorical) + model.n_continuous)))
    rows = [row for dim in dims for row in model.traverse(dim, steps=args.steps, n=4, span=span)]
    _latent.write_rows_of_any_length(out, rows)
    print(f"latents {', '.join(map(str, dims))}, four rows each: {out}")
    return 0


def _most_used(model: LatentModel, data: LabelledDataset, n: int) -> list[int]:
    """The n latents whose codes spread most, in units of the prior's standard deviation."""
    import torch

    codes = []
    with torch.no_grad():
        for start in range(0, min(MOST, len(data)), 128):
            x, cond = _latent.images(model, data, start, min(128, len(data) - start))
            codes.append(model.features(x, cond))
    spread = torch.cat(codes).std(0, correction=0) / model.code_moments()[1].flatten()
    found: torch.Tensor = spread.topk(n).indices
    return found.tolist()
