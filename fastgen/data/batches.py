"""Batches as a pure function of (seed, step), so that training resumes with the batches it would have had."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastgen.data._random import EPOCH, check_seed, permutation
from fastgen.data.dataset import LabelledDataset

Batch = tuple[Tensor, Tensor]


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The indices of batch `step` in an endless shuffled run over n images: int64 [batch_size].

    Epoch e consists of the steps e*k .. e*k + k - 1 with k = n // batch_size. It goes through a permutation
    of the images of its own, without replacement, and drops the last n mod batch_size of it: other images in
    each epoch.

    Raises:
        ValueError: batch_size is not in 1..n, step is negative, or seed is not in [0, 2**64).
    """
    _check_batches("batch_indices", n, batch_size, step)
    seed = check_seed("batch_indices", seed)
    epoch, position = divmod(step, n // batch_size)
    return _epoch_order(n, seed, epoch)[position * batch_size : (position + 1) * batch_size].clone()


def loader(
    dataset: LabelledDataset,
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    steps: int | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Batches `start_step`, `start_step` + 1, ... of `batch_indices`; endless unless `steps` is their number.

    Of `world_size` processes, this one, `rank`, gets its share of every batch: batch_size / world_size images.

    Shapes: each is (levels [B, C, H, W] or, of signals, [B, C, T], labels [B]). Dtypes: those of the set, int64.
    Sets in memory are indexed directly. Others are read by `workers` processes, each a whole batch at a time
    and two ahead, or in this process if 0; the batches and their order are the same. The global random state
    is left alone.

    Raises:
        ValueError: as `batch_indices`, at once, and a batch that the processes cannot share equally; and, when the
            batch comes, a file that cannot be decoded.
    """
    _check_batches("loader", len(dataset), batch_size, start_step)
    if not 0 <= rank < world_size or batch_size % world_size:
        raise ValueError(
            f"loader: batch_size must be a multiple of world_size, and rank in 0..{world_size - 1}; got "
            f"batch_size={batch_size}, world_size={world_size}, rank={rank}; pass another batch_size."
        )
    seed = check_seed("loader", seed)
    if steps is not None and steps < 0:
        raise ValueError(f"loader: steps must not be negative; got {steps}; pass None for an endless run.")
    numbers = itertools.count(start_step) if steps is None else range(start_step, start_step + steps)
    share = batch_size // world_size
    pick = functools.partial(_share_of_batch, len(dataset), batch_size, seed=seed, start=rank * share, length=share)
    return _read("loader", dataset, pick, numbers, workers)


def sweep(
    dataset: LabelledDataset, batch_size: int, *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Every image once, in order, in batches of `batch_size`; the last may be smaller. Otherwise as `loader`.

    Of `world_size` processes, this one gets the batches `rank`, `rank` + world_size, ... whole.

    Raises:
        ValueError: batch_size < 1 or workers < 0, at once; and, when the batch comes, a file that cannot be
            decoded.
    """
    if batch_size < 1:
        raise ValueError(f"sweep: batch_size must be at least 1; got {batch_size}; pass for example 64.")
    pick = functools.partial(_consecutive, len(dataset), batch_size)
    return _read("sweep", dataset, pick, range(rank, -(-len(dataset) // batch_size), world_size), workers)


class _Batches(Dataset[Batch]):
    """A data set of whole batches, so that a worker hands over two tensors a batch and not two an image."""

    def __init__(self, dataset: LabelledDataset, pick: Callable[[int], Tensor]) -> None:
        self._dataset, self._pick = dataset, pick

    def __getitem__(self, step: int) -> Batch:
        return self._dataset.batch(self._pick(step))


def _read(
    name: str, dataset: LabelledDataset, pick: Callable[[int], Tensor], steps: Iterable[int], workers: int
) -> Iterator[Batch]:
    if workers < 0:
        raise ValueError(f"{name}: workers must not be negative; got {workers}; pass 0 to read in this process.")
    if workers == 0 or dataset.in_memory:
        return (dataset.batch(pick(step)) for step in steps)
    return iter(
        DataLoader(
            _Batches(dataset, pick),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else starting the workers would advance the global one
        )
    )


def _share_of_batch(n: int, batch_size: int, step: int, *, seed: int, start: int, length: int) -> Tensor:
    return batch_indices(n, batch_size, step, seed)[start : start + length]


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and a launcher's SIGTERM reach the workers too; the run still needs batches to end its step.

    The parent ends its workers by SIGTERM and waits for them as long as it takes, so that one from it must be heeded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which tells the sender; elsewhere any SIGTERM ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_the_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _same(batch: Any) -> Any:
    return batch


def _consecutive(n: int, batch_size: int, step: int) -> Tensor:
    return torch.arange(step * batch_size, min(n, (step + 1) * batch_size))


@functools.lru_cache(maxsize=2)
def _epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(permutation(n, seed, EPOCH, epoch))


def _check_batches(name: str, n: int, batch_size: int, step: int) -> None:
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"{name}: batch_size must be in 1..{n}, the number of images; got {batch_size}; pass a smaller "
            "one or add images."
        )
    if step < 0:
        raise ValueError(f"{name}: step must not be negative; got {step}; the first step is 0.")
