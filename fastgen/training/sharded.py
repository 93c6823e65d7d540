"""Weights that the processes of a run share: FSDP2, and the whole tensors that files hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.models import Model


def shard(model: Model, device: torch.device) -> None:
    """Give each process its share of the weights of `model`; they are whole while `model.objective` needs them.

    The model's own units (`Model.shards`) are gathered one after another, the rest at once.

    Raises:
        ValueError: a model of several phases, whose losses are no method that weights could be gathered around.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if type(model).phases is not Model.phases:
        raise ValueError(
            f"train: sharding=fsdp is for models with a single phase; {type(model).__name__} has {len(model.phases())} "
            "of its own; set sharding=none"
        )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for unit in model.shards():
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "objective")


def is_sharded(model: Model) -> bool:
    """Whether this process has but a share of the weights."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which every process has a share; all of them must ask. Others are returned as they are."""
    found: Tensor = getattr(tensor, "full_tensor", lambda: tensor)()
    return found


def local(tensor: Tensor) -> Tensor:
    """The share that this process has of a tensor, as a plain one."""
    found: Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return found


def whole_of(share: Tensor, like: Tensor) -> Tensor:
    """The tensor of which every process has a `share`, cut as `like` is."""
    from torch.distributed.tensor import DTensor

    sharded: Any = like
    return DTensor.from_local(
        share, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """The share of `value` that this process has of `like`; `value` itself where that is not shared."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
