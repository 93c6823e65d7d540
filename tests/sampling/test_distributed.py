"""N ranks draw the images of one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastgen.likelihoods import Categorical
from fastgen.models import MADE, GatedPixelCNN, MultiScalePixelCNN
from fastgen.sampling import sample, sample_distributed, shard


def build() -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN(image_channels=1, n_layers=2, n_filters=4, n_classes=3, likelihood=Categorical(1, 4)).double()


def draw(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        cond = torch.arange(5) % 3
        images = sample_distributed(build(), 5, shape=(1, 4, 5), seed=9, cond=cond, first_image=2)
        own = sample_distributed(build(), 5, shape=(1, 4, 5), seed=9, cond=1, first_image=2, gather=False)
        torch.save((images, own), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def test_two_ranks_draw_what_one_draws(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(draw, (port, str(tmp_path)), nprocs=2)
    cond = torch.arange(5) % 3
    expected = sample(build(), 5, shape=(1, 4, 5), seed=9, cond=cond, first_image=2)
    same_class = sample(build(), 5, shape=(1, 4, 5), seed=9, cond=1, first_image=2)
    for rank in (0, 1):
        images, own = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(images, expected)
        part = shard(5, rank, 2)
        assert torch.equal(own, same_class[part.start : part.stop])


@pytest.mark.parametrize("name", ["several networks", "several orders"])
def test_models_that_draw_in_their_own_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model: torch.nn.Module = {
        "several networks": lambda: MultiScalePixelCNN(
            1, n_layers=1, n_filters=4, cond_filters=4, likelihood=Categorical(1, 4), image_size=(4, 6)
        ),
        "several orders": lambda: MADE(1, (9,), "random", n_orders=3, image_size=(3, 4)),
    }[name]().double()
    expected = model.sample(5, seed=3)
    assert torch.equal(sample_distributed(model, 5, seed=3), expected)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        part = shard(5, rank, 2)
        own = sample_distributed(model, 5, seed=3, gather=False)
        assert torch.equal(own, expected[part.start : part.stop])


def test_shards() -> None:
    assert [list(shard(5, r, 3)) for r in range(3)] == [[0], [1, 2], [3, 4]]
    assert list(shard(0, 0, 2)) == []
    with pytest.raises(ValueError, match=r"rank in 0..1; got n=4, rank=2"):
        shard(4, 2, 2)


def test_without_a_process_group_it_is_sample() -> None:
    options = {"shape": (1, 3, 3), "cond": 0}
    assert torch.equal(sample_distributed(build(), 2, **options), sample(build(), 2, **options))
