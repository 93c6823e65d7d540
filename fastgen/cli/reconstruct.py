"""Write images of a data set above what a model with codes gives back of them.

Of a denoising model the noisy images that it is given lie between.
"""

from __future__ import annotations

import argparse

from fastgen.cli import _latent, _runs

SUMMARY = "images beside their reconstructions, of a model with codes"
NAME = "reconstructions.png"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _latent.add_arguments(parser, NAME)
    parser.add_argument("--seed", type=int, default=0, help="seed of a denoising model's noise (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Reconstruct and write."""
    import torch

    from fastgen.likelihoods import signal_to_levels
    from fastgen.models import DenoisingAutoencoder

    out = _latent.picture_path(args, NAME)
    model = _runs.load_latent_model(args.run_path, args.device)
    data = _runs.data_for(model, args.run_path, args.data, args.split)
    x, cond = _latent.images(model, data, args.first, args.n)
    rows = [_runs.eight_bits(x, model.levels)]
    if isinstance(model, DenoisingAutoencoder):
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(args.seed)
            x = model.corrupt(x)
        rows.append(signal_to_levels(x, 256))
    rows.append(model.reconstruct(x, cond, expected=True))
    _latent.write_rows(out, torch.stack(rows))
    print(f"{args.n} images of {data.name} ({args.split}) above, what the model gives back below: {out}")
    return 0
