"""The dense program in compiled C: a batch of whole images is one call for every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.sampling.dense.executor import DenseExecutor
from fastgen.sampling.dense.plan import DensePlan
from fastgen.sampling.executors.native import Encoder, Program, library, row_context
from fastgen.sampling.executors.steps import Step

_DRAWN = (DiscretizedLogisticMixture, Categorical, Bernoulli)  # what native.c draws


class DenseNativeExecutor(DenseExecutor):
    """The dense executor with its program in C.

    Exactness: the same formulas as PyTorch's, each sum in one order whatever the batch and the number of threads.
    """

    def __init__(
        self, plan: DensePlan, n: int, like: Tensor, likelihood: Likelihood, keep_parameters: bool = False
    ) -> None:
        super().__init__(plan, n, like)
        _, height, width = self.image_shape
        # what the last images were drawn from, [N, H W, P]
        self.image_parameters = like.new_zeros(n, height * width, likelihood.n_params) if keep_parameters else None
        self.likelihood = likelihood
        built = library(like.dtype)
        encoder = Encoder(built)
        self.kept: list[Step] = []  # the records hold addresses
        self.encoder = encoder
        records: list[tuple[Any, ...]] = []
        pieces: list[list[tuple[int, int]]] = []
        for t in range(plan.n_stages):
            steps = self.steps(t)
            self.kept += steps
            pieces.append([(len(records), len(records) + len(steps))])
            records += [encoder.step(step) for step in steps]
            if type(likelihood) in _DRAWN:
                records.append(self._draw(t))
            if self.image_parameters is not None and (t + 1) % self.substeps == 0:
                pixel = self.image_parameters[:, t // self.substeps]
                records.append(encoder.step(Step("copy", pixel, (self.results[t][0],))))
        self.program = Program(built, records, pieces)
        threads = max(1, min(torch.get_num_threads(), n))
        self.shares = [(n * k // threads, n * (k + 1) // threads) for k in range(threads)]
        self.pool = ThreadPoolExecutor(threads - 1, "fastgen") if threads > 1 else None

    def parameters(self, column: int, substep: int) -> Tensor:
        """Compute what the last draw made known; parameters [N, P]."""
        t = self._time(column, substep)
        self.program.run(self.program.pieces[t][0], (0, self.n_images))
        return self.results[t][0]

    def draws(self, likelihood: Likelihood) -> bool:
        """Whether `draw_images` can draw from a likelihood."""
        return likelihood == self.likelihood and type(likelihood) in _DRAWN

    def draw_images(self, uniforms: Tensor, temperature: Tensor, kept: Tensor | None, mask: Tensor | None) -> Tensor:
        """All pixels of all images, [N, H W C], valid until the next call.

        Shapes: uniforms float32 [H W, N, U]; temperature float64 [C]; kept [H W, N, C] in [-1, 1] and mask bool
            [H W, N, C], or None; contiguous.
        """
        context = row_context(self.likelihood, uniforms, temperature, kept, mask)
        whole = (0, len(self.program.steps))
        others = []
        if self.pool is not None:
            others = [self.pool.submit(self.program.run, whole, share, context) for share in self.shares[1:]]
        self.program.run(whole, self.shares[0], context)
        for other in others:
            other.result()
        return self.buffers[0]

    def _draw(self, t: int) -> tuple[Any, ...]:
        pixel, group = divmod(t, self.substeps)
        likelihood, params, first = self.likelihood, self.results[t][0], 0
        if self.substeps > 1:
            likelihood, part, draws = likelihood.channel(group)
            params, first = params[:, part], draws.start
        return self.encoder.draw(likelihood, params, self.targets[t], first, pixel)
