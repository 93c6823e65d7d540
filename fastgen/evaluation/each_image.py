"""What is measured of one image after another, by one process or by several."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgen.data import LabelledDataset, sweep
from fastgen.sampling.trace import evaluating

Figures = Mapping[str, Tensor]


def of_each_image(
    model: nn.Module,
    data: LabelledDataset,
    batch_size: int,
    measure: Callable[[Tensor, Tensor], Figures],
    *,
    distributed: bool = False,
) -> dict[str, Tensor]:
    """What `measure(x, labels)` says of a batch, {name: [n, ...]}, of all images in order and in float64.

    In eval mode, without gradients, on the model's device. What is drawn there is a function of the number of the
    batch, so that figures are repeatable; the global random generators are left as they were. With `distributed` the
    batches are shared among the processes of `torch.distributed`, all of which get the figures of all images.
    """
    device = next(model.parameters()).device
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed and dist.is_initialized() else (0, 1)
    parts: dict[int, Figures] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(), evaluating(model):
        batches = sweep(data, batch_size, rank=rank, world_size=world_size)
        for number, (x, labels) in zip(itertools.count(rank, world_size), batches):
            torch.manual_seed(number)
            parts[number] = {key: values.double() for key, values in measure(x.to(device), labels.to(device)).items()}
    if world_size > 1:
        of_all: list[Any] = [None] * world_size
        dist.all_gather_object(of_all, {k: {key: v.cpu() for key, v in part.items()} for k, part in parts.items()})
        parts = {k: part for of_one in of_all for k, part in of_one.items()}
    ordered = [parts[number] for number in sorted(parts)]
    return {key: torch.cat([part[key] for part in ordered]) for key in ordered[0]}
