"""Write what lies between pairs of images in the space of codes: a row a pair.

The ends are reconstructions of images, of an adversarial model, which has no encoder, what it draws by --seed.
"""

from __future__ import annotations

import argparse

from fastgen.cli import _latent, _runs

SUMMARY = "images between images, along their codes"
NAME = "interpolation.png"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _latent.add_arguments(parser, NAME)
    parser.add_argument("--steps", type=_runs.positive, default=9, help="images a row, the ends included (default: 9)")
    parser.add_argument("--spherical", action="store_true", help="along great circles instead of straight lines")
    _latent.add_space(parser)
    parser.add_argument("--seed", type=int, default=0, help="of an adversarial model: seed of the codes (default: 0)")
    parser.add_argument(
        "--class", dest="labels", type=_runs.label_list, help="of an adversarial model: labels of the rows, 3 or 0,1,2"
    )


def run(args: argparse.Namespace) -> int:
    """Interpolate and write."""
    from fastgen.models import AdversarialModel

    out = _latent.picture_path(args, NAME)
    kind = "on great circles" if args.spherical else "on straight lines"
    model = _runs.load_model_with_codes(args.run_path, args.device)
    space = _latent.check_space(model, args.space)
    if isinstance(model, AdversarialModel):
        codes = model.draw_latent(2 * args.n, seed=args.seed)
        given = _runs.labels(model, args.labels, args.n)
        ends = codes[::2], codes[1::2]
        between = model.interpolate(*ends, args.steps, spherical=args.spherical, cond=given, **space)
        _latent.write_rows(out, between)
        print(f"{args.n} pairs of {'styles' if space else 'codes'}, {args.steps} steps {kind}: {out}")
        return 0
    data = _runs.data_for(model, args.run_path, args.data, args.split)
    x, cond = _latent.images(model, data, args.first, 2 * args.n)
    labels = None if cond is None else cond[::2]  # a row has one label: its first image's
    rows = model.interpolate(x[::2], x[1::2], args.steps, spherical=args.spherical, cond=labels, expected=True)
    _latent.write_rows(out, rows)
    print(f"{args.n} pairs of {data.name} ({args.split}), {args.steps} steps {kind}: {out}")
    return 0
