"""Batches as a function of the step."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys

import pytest
import torch

from fastgen.data import batch_indices, load, loader, sweep

# A machine with one core makes the DataLoader suggest fewer workers.
one_core = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def equal(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(torch.equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


@pytest.mark.parametrize("n, batch_size", [(10, 3), (12, 4), (7, 7), (5, 1)])
def test_an_epoch_takes_no_image_twice(n, batch_size):
    per_epoch = n // batch_size
    dropped = set()
    for epoch in range(200):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        indices = torch.cat([batch_indices(n, batch_size, step, seed=1) for step in steps])
        assert indices.dtype == torch.int64
        assert len(indices) == len(set(indices.tolist())) == per_epoch * batch_size
        assert indices.min() >= 0 and indices.max() < n
        dropped.add(frozenset(range(n)) - frozenset(indices.tolist()))
    assert len(set().union(*dropped)) == (0 if n % batch_size == 0 else n)  # no image is left out for good


def test_a_batch_is_a_function_of_seed_and_step():
    forward = [batch_indices(100, 8, step, 3) for step in range(40)]
    torch.manual_seed(17)
    for step in reversed(range(40)):
        assert torch.equal(batch_indices(100, 8, step, 3), forward[step])
    assert not torch.equal(forward[0], forward[12])  # the first batch of another epoch
    assert not torch.equal(forward[0], batch_indices(100, 8, 0, 4))
    batch_indices(100, 8, 0, 3).zero_()  # the caller's copy
    assert torch.equal(batch_indices(100, 8, 0, 3), forward[0])


def test_the_stream_is_frozen():
    assert batch_indices(50, 5, 0, 0).tolist() == FIRST
    assert batch_indices(50, 5, 1_000_003, 2**64 - 1).tolist() == FAR


def test_every_order_is_about_equally_likely():
    firsts = torch.cat([batch_indices(4, 1, 4 * epoch, 0) for epoch in range(2000)])
    counts = torch.bincount(firsts, minlength=4)
    assert (counts - 500).abs().max() < 100  # 5 standard deviations


def test_loader_follows_batch_indices():
    dataset = load("mnist5k", limit=50)
    images, labels = dataset.tensors()
    batches = list(loader(dataset, 8, seed=2, start_step=4, steps=5))
    assert len(batches) == 5
    for step, (x, y) in enumerate(batches, start=4):
        indices = batch_indices(50, 8, step, 2)
        assert torch.equal(x, images[indices]) and torch.equal(y, labels[indices])
        assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)


def test_resuming_gives_the_same_batches():
    dataset = load("mnist5k", limit=50)
    whole = list(itertools.islice(loader(dataset, 7, seed=5), 30))  # endless without `steps`
    assert equal(whole[:11], loader(dataset, 7, seed=5, steps=11))
    assert equal(whole[11:], itertools.islice(loader(dataset, 7, seed=5, start_step=11), 19))


@one_core
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(make_folder, workers):
    folder = load(make_folder({f"{'ab'[i % 2]}/{i}.png": i for i in range(20)}), split="all")
    images, labels = folder.tensors()
    state = torch.random.get_rng_state()
    batches = list(loader(folder, 6, seed=1, start_step=2, steps=7, workers=workers))
    assert torch.equal(torch.random.get_rng_state(), state)
    wanted = [batch_indices(20, 6, step, 1) for step in range(2, 9)]
    assert equal(batches, [(images[indices], labels[indices]) for indices in wanted])


@one_core
def test_endless_workers_can_be_left(make_folder):
    folder = load(make_folder({f"{i}.png": i for i in range(8)}), split="all")
    stream = loader(folder, 4, workers=1)
    first = [next(stream) for _ in range(5)]
    del stream
    assert equal(first, loader(folder, 4, steps=5))


LEAVES_A_STREAM = """
import subprocess, sys, time
from fastgen.data import load, loader
stream = loader(load(sys.argv[1], split="all"), 4, workers=1)
next(stream)
subprocess.run(["kill", "-TERM", str(stream._workers[0].pid)], check=True)  # as a launcher ends a whole group
time.sleep(0.2)
for _ in range(20):
    next(stream)
print("left", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_workers_end_by_their_parent_and_by_no_one_else(make_folder):
    folder = make_folder({f"{i}.png": i for i in range(8)})
    command = [sys.executable, "-W", "ignore", "-c", LEAVES_A_STREAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # it used to wait for ever at its end
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


@one_core
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_is_named_through_workers(make_folder, workers):
    folder = make_folder({f"{i}.png": i for i in range(6)})
    dataset = load(folder, split="all")
    (folder / "3.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"3\.png' must be an image"):
        list(loader(dataset, 6, steps=1, workers=workers))


@one_core
@pytest.mark.parametrize("workers", [0, 1])
def test_sweep_visits_every_image_once_in_order(make_folder, workers):
    folder = load(make_folder({f"{i}.png": i for i in range(7)}), split="all")
    batches = list(sweep(folder, 3, workers=workers))
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), folder.tensors()[0])
    memory = load("mnist5k", limit=10)
    assert torch.equal(torch.cat([y for _, y in sweep(memory, 4)]), memory.tensors()[1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((10, 11, 0, 0), r"batch_size must be in 1\.\.10, the number of images; got 11"),
        ((10, 0, 0, 0), "got 0"),
        ((10, 2, -1, 0), "step must not be negative; got -1"),
        ((10, 2, 0, -1), "seed must be in"),
    ],
)
def test_bad_batches(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(*arguments)


def test_bad_loaders_fail_at_once():
    dataset = load("mnist5k", limit=5)
    for call, message in (
        (lambda: loader(dataset, 6), "batch_size must be in 1..5"),
        (lambda: loader(dataset, 2, start_step=-1), "step must not be negative"),
        (lambda: loader(dataset, 2, steps=-1), "steps must not be negative"),
        (lambda: loader(dataset, 2, workers=-1), "workers must not be negative"),
        (lambda: loader(dataset, 2, seed=-1), "seed must be in"),
        (lambda: sweep(dataset, 0), "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


FIRST = [45, 23, 22, 19, 48]
FAR = [13, 36, 47, 30, 17]
