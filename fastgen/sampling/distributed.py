"""Sampling shared among the processes of torch.distributed, by image index."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgen.sampling.ancestral import sample


def shard(n: int, rank: int, world_size: int) -> range:
    """The images of 0 .. n - 1 that a rank draws: neighbours, as equally many as possible.

    Raises:
        ValueError: a rank outside 0 .. world_size - 1, or a negative n.
    """
    if n < 0 or not 0 <= rank < world_size:
        raise ValueError(f"shard: n must not be negative and rank in 0..{world_size - 1}; got n={n}, rank={rank}")
    return range(n * rank // world_size, n * (rank + 1) // world_size)


def sample_distributed(
    model: nn.Module,
    n: int,
    *,
    cond: Any = None,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    first_image: int = 0,
    gather: bool = True,
    **options: Any,
) -> Tensor:
    """Draw n images on all ranks together: the images that `sample` draws in one process.

    Every rank calls it with the same arguments, weights included, and draws its share; without an initialised process
    group it is `sample`, of a model of `fastgen.models` its method.

    Shapes: result [n, C, H, W], on every rank; with gather=False the rank's own images, `shard(n, rank, world_size)`.
    `cond`, `given` and `mask` are those of all n images; `options` are those of `sample`, without return_log_prob.

    Raises: as `sample`.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = shard(n, rank, world_size)
    part = slice(mine.start, mine.stop)

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.dim() and len(value) == n):
            return value[part]
        return value  # one for all

    # ours know better how they are drawn: in several networks, in several orders, of the size of a condition
    draw = getattr(model, "sample", None) if hasattr(model, "prepare_cond") else None
    for key, value in (("given", given), ("mask", mask)):
        if value is not None:  # models that complete no images know no such thing
            options[key] = own(value)
    images: Tensor = (draw or partial(sample, model))(
        len(mine), cond=own(cond), first_image=first_image + mine.start, **options
    )
    if not gather or world_size == 1:
        return images
    parts = [images.new_empty(len(shard(n, r, world_size)), *images.shape[1:]) for r in range(world_size)]
    longest = max(len(p) for p in parts)
    padded = torch.cat((images, images.new_zeros(longest - len(images), *images.shape[1:])))
    received = [torch.empty_like(padded) for _ in parts]
    dist.all_gather(received, padded)
    return torch.cat([whole[: len(p)] for whole, p in zip(received, parts)])
