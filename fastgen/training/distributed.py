"""The processes of one run, as `torchrun` starts them: who they are, and what they tell each other.

What is small (a decision, a checkpoint's header, an error) travels on the CPU, so that no GPU has to be waited for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from fastgen.training.device import pick_device

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """A process among those of the run.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
        local_rank: its number on its own machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in the first process, in all of them; so with what it raises."""
        if not self.several:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except Exception as error:  # the others must not wait for ever
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        result: Result = outcome[0]
        return result

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, done by the first process of each machine before the others, who find what it left."""
        if not self.several:
            return work()
        if self.local_rank == 0:
            try:
                return work()
            finally:
                dist.barrier()
        dist.barrier()
        return work()

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Whether any process wants to stop, and what the clock of the first one says."""
        if not self.several:
            return stop, seconds
        said = torch.tensor([float(stop), seconds if self.first else 0.0], dtype=torch.float64)
        dist.all_reduce(said)
        return bool(said[0] > 0), float(said[1])

    def means(self, terms: Mapping[str, float]) -> dict[str, float]:
        """The mean over the processes of each term, of which all have the same."""
        if not self.several:
            return dict(terms)
        values = torch.tensor(list(terms.values()), dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(terms, (values / self.world_size).tolist(), strict=True))

    def gather(self, value: Result) -> list[Result]:
        """The values of all processes, small ones and on the CPU, in the first one; elsewhere nothing."""
        if not self.several:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.first else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def copy_from_first(self, module: nn.Module) -> None:
        """Give all processes the weights and buffers of the first one."""
        if self.several:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)


ALONE = Ranks()


def _meeting_point() -> dict[str, Any]:
    """Where the processes find each other, as arguments of `init_process_group`.

    When torchrun restarts the processes its store may still hold the addresses of those that have ended, so that each
    attempt gets names of its own.
    """
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {
        "store": dist.PrefixStore(f"fastgen/attempt-{attempt}", store),
        "rank": int(environment["RANK"]),
        "world_size": int(environment["WORLD_SIZE"]),
    }


@contextmanager
def joined(device: str = "auto") -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that `torchrun` started, or those of a process group that there is; leave them afterwards.

    A process alone, started by hand, is all there is. With CUDA each process has the GPU of its local rank.

    Raises:
        ValueError: a device that cannot be used here, or fewer GPUs than processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if not dist.is_available() or not (dist.is_initialized() or world_size > 1):
        yield Ranks(), pick_device(device)
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    where = pick_device(device)
    if where.type == "cuda" and where.index is None:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"train: every process needs a GPU of its own; got local rank {local_rank} and "
                f"{torch.cuda.device_count()} GPUs; start as many processes as there are GPUs, or use --device cpu"
            )
        where = torch.device("cuda", local_rank)
        torch.cuda.set_device(where)
    owner = not dist.is_initialized()
    if owner:
        # imported later its functions have the group as a default, which then outlives the leaving: its threads have
        # aborted processes at their end
        importlib.import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, **_meeting_point())
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank), where
    finally:
        if owner:
            dist.destroy_process_group()
