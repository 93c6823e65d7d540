"""Write samples of a model beside the training images that are nearest to them: whether it copies.

Near is the least root of the mean squared difference of levels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastgen.cli import _latent, _runs

SUMMARY = "samples beside their nearest training images"
NAME = "neighbours.png"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument("--data", help="data set, or folder of images (default: the run's)")
    parser.add_argument("-n", type=_runs.positive, default=8, help="how many samples (default: 8)")
    parser.add_argument("-k", type=_runs.positive, default=5, help="how many neighbours of each (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--class", dest="labels", type=_runs.label_list, help="labels to draw, for example 3 or 0,1,2")
    parser.add_argument("--out", type=Path, help=f"a .png (default: {NAME} in RUN)")


def run(args: argparse.Namespace) -> int:
    """Sample, search and write."""
    import torch

    from fastgen.evaluation import nearest_neighbours

    out = _latent.picture_path(args, NAME)
    model = _runs.load_model(args.run_path, args.device)
    if _runs.is_signal_model(model):
        raise ValueError(f"neighbours: RUN must be a model of images; {args.run_path} draws signals")
    data = _runs.data_for(model, args.run_path, args.data, "train")
    cond = _runs.condition(model, None, _runs.labels(model, args.labels, args.n), args.n, model.image_size)
    drawn = model.sample(args.n, seed=args.seed, cond=cond).cpu()
    distances, indices = nearest_neighbours(drawn, data, args.k)
    near, _ = data.batch(indices.flatten())
    rows = torch.cat([drawn[:, None], near.unflatten(0, indices.shape)], 1)
    _latent.write_rows(out, _runs.eight_bits(rows, model.levels))
    least, mean = float(distances[:, 0].min()), float(distances[:, 0].mean())
    print(
        f"{args.n} samples, each before its {args.k} nearest of {len(data)} training images of {data.name}; to the "
        f"nearest {mean:.2f} levels in the mean, {least:.2f} at the least: {out}"
    )
    return 0
