"""A walk over images in the order of an autoregressive model that codes every value, in either direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgen.codec.coder import SymbolCoder
from fastgen.codec.tables import frequencies, probabilities
from fastgen.likelihoods import level_dtype, levels_to_signal
from fastgen.sampling import prepare
from fastgen.sampling.ancestral import run
from fastgen.sampling.order import InDrawingOrder, in_drawing_order


@torch.inference_mode()
def walk(
    model: nn.Module,
    coder: SymbolCoder,
    n: int,
    shape: tuple[int, ...],
    *,
    images: Tensor | None = None,
    known: Tensor | None = None,
    cond: Any = None,
    method: str = "auto",
) -> Tensor:
    """Code n images of `shape`: each value by its distribution given the values before, all images side by side.

    The parameters come from the sampling engine step by step, whether `images` are there to be written or None to be
    read, so both directions compute the same numbers in the same order. Where `known` [H, W] is True the values of
    `images` are taken and not coded.

    Shapes: images [n, *shape] levels -> the images as they were coded, [n, *shape] levels.
    """
    model = in_drawing_order(model)
    likelihood: Any = model.likelihood
    executor = prepare(model, n, shape=shape, cond=cond, method=method)
    _, height, width = raster = executor.image_shape
    source = None if images is None else images.view(n, *raster)
    where = None if known is None else known.view(1, 1, height, width)
    if isinstance(model, InDrawingOrder):
        source = None if source is None else model.arrange(source)
        where = None if where is None else model.arrange(where)
    skipped = None if where is None else where[0, 0].tolist()
    device = next(model.parameters()).device
    coded = torch.zeros(n, *raster, dtype=level_dtype(likelihood.levels), device=device)

    def draw(row: int, column: int, group: int, params: Tensor) -> Tensor:
        channels = range(likelihood.channels) if executor.substeps == 1 else range(group, group + 1)
        here = coded[:, :, row, column]
        for c in channels:
            given = None if source is None else source[:, c, row, column].long()
            if skipped is None or not skipped[row][column]:
                given = coder.code(frequencies(probabilities(likelihood, params, here[:, :c])), given)
            assert given is not None
            here[:, c] = given.to(here.dtype)
        drawn = here[:, channels.start : channels.stop]
        return levels_to_signal(drawn, likelihood.levels, params.dtype)

    run(executor, raster, draw, torch.empty(n, *raster, dtype=next(model.parameters()).dtype), lambda: None)
    coded = model.restore(coded) if isinstance(model, InDrawingOrder) else coded
    return coded.view(n, *shape)
