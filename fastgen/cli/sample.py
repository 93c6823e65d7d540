"""Draw images or signals from a trained model.

The noise is a function of the seed and the image's index, so a seed gives the same images by every method.
"""

from __future__ import annotations

import argparse
import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    from fastgen.models import Model
    from fastgen.training.distributed import Ranks

SUMMARY = "draw images or sounds from a trained model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument("-n", type=_runs.positive, help="how many (default: 64 images, 4 signals)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 less varied, 0 the mode (default: 1)")
    parser.add_argument(
        "--pixel-temperature", type=float, help="of the pixels given the code; 0 their mode (default: the model's own)"
    )
    parser.add_argument(
        "--truncation", type=float, default=1.0, help="of a StyleGAN: below 1 nearer to the average style (default: 1)"
    )
    parser.add_argument(
        "--noise", default="random", help="of a StyleGAN: random, constant for all images, or none (default: random)"
    )
    parser.add_argument("--class", dest="labels", type=_runs.label_list, help="labels to draw, for example 3 or 0,1,2")
    parser.add_argument("--cond-image", type=Path, help="what to colour or to enlarge, for a model that does so")
    parser.add_argument("--size", type=_runs.size, help="N or HxW, of signals the samples (default: as trained)")
    parser.add_argument("--method", default="auto", help="auto, naive, cached, ... (see fastgen doctor)")
    parser.add_argument("--batch-size", type=_runs.positive, help="images drawn side by side, for less memory")
    parser.add_argument(
        "--out",
        type=Path,
        help=".png for a grid, .wav for sounds, .npy for the levels (default: samples.png, .wav or .npy in RUN)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Sample and write the images or signals."""
    from fastgen.training.distributed import joined

    with joined(args.device) as (ranks, where):
        return _draw(args, _runs.load_model(args.run_path, str(where)), ranks)


def _draw(args: argparse.Namespace, model: Model, ranks: Ranks) -> int:
    from fastgen.sampling import sample_distributed

    endings = _runs.endings(model)
    out = _runs.output_path(args.run_path, args.out, f"samples{endings[0]}", endings)
    n = args.n or (4 if _runs.is_signal_model(model) else 64)
    options = _options(model, args)
    labels, shape = _runs.labels(model, args.labels, n), _shape(model, args.size)
    cond = _runs.condition(
        model, args.cond_image, labels, n, (shape[1], shape[2]) if shape and len(shape) == 3 else None
    )
    started = time.perf_counter()
    drawn = sample_distributed(model, n, seed=args.seed, cond=cond, **options).cpu()
    seconds = time.perf_counter() - started
    if not ranks.first:
        return 0
    if _runs.is_signal_model(model):
        _runs.write_signals(out, drawn, model)
    else:
        columns = len(set(labels.tolist())) if labels is not None and len(set(labels.tolist())) > 1 else None
        _runs.write_images(out, drawn, columns, model.levels)
    print(f"{n} {_runs.items(model)} of {'x'.join(map(str, drawn.shape[1:]))} in {seconds:.2f} s: {out}")
    return 0


def _options(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """What the model's sampler is asked beside the seed and the condition.

    Raises:
        ValueError: something that the model does not know.
    """
    from fastgen.sampling import sample

    parameters = inspect.signature(model.sample).parameters
    known = set(parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):  # it hands on what it does not know
        known |= set(inspect.signature(sample).parameters)
    wanted = {
        "temperature": (args.temperature, 1.0),
        "pixel_temperature": (args.pixel_temperature, None),
        "truncation": (args.truncation, 1.0),
        "noise": (args.noise, "random"),
        "shape": (None if args.size is None else _shape(model, args.size), None),
        "method": (args.method, "auto"),
        "batch_size": (args.batch_size, None),
    }
    options: dict[str, Any] = {"progress": not args.quiet} if "progress" in known else {}
    for key, (value, default) in wanted.items():
        if value == default:
            continue
        if key not in known:
            flag = {"shape": "size"}.get(key, key).replace("_", "-")
            raise ValueError(f"--{flag}: {type(model).__name__} has no such option; leave --{flag} out")
        options[key] = _runs.check_method(value, model) if key == "method" else value
    return options


def _shape(model: Model, size: int | tuple[int, int] | None) -> tuple[int, ...] | None:
    """The shape of one drawing of `size`; None is the trained one."""
    if size is None:
        return None if model.size is None else (model.channels, *model.size)
    sizes = [size] * len(model.axes) if isinstance(size, int) else list(size)
    if len(sizes) != len(model.axes):
        raise ValueError(f"--size: signals have a length; got {'x'.join(map(str, sizes))}; give the number of samples")
    return (model.channels, *sizes)
