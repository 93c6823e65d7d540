"""Statistics that all processes of `torch.distributed` hold alike."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x over the processes, without gradient; x itself in a process alone. All must call it together.

    Shapes: any, the same in all processes. Dtypes: float.
    """
    x = x.detach()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
