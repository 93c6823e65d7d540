"""What rounding the weights does to drawn pixels: `python -m bench.sampling_precision`.

On a GPU by captured launches; without one by the launches' references, which round alike, and on the smaller model.

Two figures, because one differing pixel changes all that follow: of pixels drawn with the same noise after the same
pixels, how many differ; and of images drawn freely, how many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.cases.sampling_launches import MODELS
from fastgen.sampling import prepare, sample
from fastgen.sampling.executors import Executor
from fastgen.sampling.executors.lowered import PRECISIONS, LoweredExecutor
from fastgen.sampling.normalize import normalize
from fastgen.sampling.plan import plan
from fastgen.sampling.trace import trace

Prepare = Callable[[str], Executor]


def differences(model: nn.Module, n: int, prepared: Prepare, precision: str) -> tuple[float, float]:
    """Shares of channels of pixels and of whole images that differ from those of float32.

    Pixel by pixel: every pixel is drawn by both, and both go on from what float32 drew.
    """
    exact, rounded = prepared("float32"), prepared(precision)
    wanted = sample(model, n, prepared=exact)
    free = sample(model, n, prepared=rounded)
    images = float((wanted != free).flatten(1).any(1).float().mean())
    return one_at_a_time(model, wanted, rounded), images


@torch.inference_mode()
def by_references(model: nn.Module, n: int, shape: tuple[int, ...], precision: str) -> Executor:
    """An executor of the launches' references on the CPU."""
    from fastgen.sampling.ancestral import _likelihood_of, _parts

    like, likelihood = torch.zeros(n, *shape), _likelihood_of(model)
    program = plan(normalize(trace(model, like[:1], None)), _parts(likelihood))
    return LoweredExecutor(program, n, like, likelihood, precision=precision)


def one_at_a_time(model: nn.Module, wanted: Tensor, rounded: Executor) -> float:
    """How many channels of pixels differ where every pixel follows the given ones."""
    from fastgen.likelihoods import levels_to_signal
    from fastgen.sampling.ancestral import _raster, run
    from fastgen.sampling.noise import uniforms

    likelihood = model.likelihood
    assert not isinstance(likelihood, (Tensor, nn.Module))
    parameter = next(model.parameters())
    n, shape = len(wanted), _raster(tuple(wanted.shape[1:]))
    given = levels_to_signal(wanted, likelihood.levels, parameter.dtype).view(n, *shape)
    noise = uniforms(0, torch.arange(n, device=parameter.device), *shape[1:], likelihood.n_draws)
    different = torch.zeros((), dtype=torch.int64, device=parameter.device)

    def draw(row: int, column: int, group: int, params: Tensor) -> Tensor:
        part, draws, channels = slice(None), slice(None), slice(None)
        one = likelihood
        if rounded.substeps > 1:
            one, part, draws = likelihood.channel(group)
            channels = slice(group, group + 1)
        x = one.sample(params[:, part], noise[:, draws, row, column])
        right = given[:, channels, row, column]
        different.add_(((x - right).abs() > 0.5 / likelihood.levels).sum())
        return right

    run(rounded, shape, draw, torch.empty_like(given), lambda: None)
    return float(different) / given.numel()


def main(arguments: list[str] | None = None) -> int:
    """Print the shares; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sampling_precision", description=__doc__)
    parser.add_argument("--model", nargs="+", choices=tuple(MODELS), help="default: by the device")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = ["pixelcnnpp-5x160", "gated-pixelcnn"] if device == "cuda" else ["gated-pixelcnn"]
    for key in options.model or usual:
        model, shape, n = MODELS[key].build(device), MODELS[key].shape, options.images

        def prepared(precision: str, model: nn.Module = model, shape: tuple[int, ...] = shape, n: int = n) -> Executor:
            if device == "cuda":
                return prepare(model, n, shape=shape, method="cuda_graph", precision=precision)
            return by_references(model, n, shape, precision)

        for precision in PRECISIONS:
            pixels, images = differences(model, n, prepared, precision)
            print(f"{MODELS[key].title}, {n} images, weights in {precision}: of pixels drawn after the same ones "
                  f"{pixels:.3%} differ from float32's, of images {images:.0%}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
