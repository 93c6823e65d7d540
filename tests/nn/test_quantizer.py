"""The vector quantizer: moving averages, restarts, gradients, state, and the same codebook in all processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.nn import VectorQuantizer


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_moving_averages_are_the_formula() -> None:
    layer = VectorQuantizer(7, 3, decay=0.9, epsilon=1e-2)
    codebook = layer.codebook.double()
    counts, sums = torch.ones(7, dtype=torch.float64), codebook.clone()
    for step in range(4):
        x = images(seed=step)
        rows = x.double().movedim(1, -1).reshape(-1, 3)
        nearest = (rows[:, None] - codebook).square().sum(2).argmin(1)
        result = layer(x)
        assert torch.equal(result.indices.flatten(), nearest)
        torch.testing.assert_close(result.quantized.movedim(1, -1).reshape(-1, 3), codebook[nearest].float())
        for k in range(7):
            counts[k] = 0.9 * counts[k] + 0.1 * (nearest == k).sum()
            sums[k] = 0.9 * sums[k] + 0.1 * rows[nearest == k].sum(0)
        smoothed = (counts + 1e-2) / (counts.sum() + 7e-2) * counts.sum()
        codebook = sums / smoothed[:, None]
        torch.testing.assert_close(layer.codebook, codebook.float(), rtol=1e-5, atol=1e-6)


def test_loss_and_perplexity() -> None:
    layer = VectorQuantizer(7, 3, commitment=0.5)
    x = images().requires_grad_()
    entries = layer.codebook.clone()
    quantized, indices, loss, perplexity = layer(x)
    difference = x.detach() - entries[indices].movedim(-1, 1)
    torch.testing.assert_close(loss.detach(), 0.5 * difference.square().mean())
    (by_loss,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(by_loss, difference / x.numel())
    (by_value,) = torch.autograd.grad(quantized.sum(), x)
    assert torch.equal(by_value, torch.ones_like(x))
    shares = torch.bincount(indices.flatten(), minlength=7) / indices.numel()
    entropy = -sum(float(p) * float(p.log()) for p in shares if p)
    assert perplexity.item() == pytest.approx(torch.tensor(entropy).exp().item(), rel=1e-5)
    layer.codebook[:] = 1000
    layer.codebook[2] = 0
    assert layer.eval()(x).perplexity == 1


def test_evaluation_updates_nothing() -> None:
    layer = VectorQuantizer(7, 3, restart_after=1).eval()
    before = copy.deepcopy(layer.state_dict())
    layer(images())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    layer.train()(images())
    assert not torch.equal(layer.codebook, before["codebook"])


def test_state_dict_round_trip() -> None:
    trained = VectorQuantizer(7, 3, restart_after=3)
    trained(images())
    fresh = VectorQuantizer(7, 3, restart_after=3)
    fresh.load_state_dict(trained.state_dict())
    one, other = (layer(images(seed=1)) for layer in (trained, fresh))
    assert torch.equal(one.quantized, other.quantized) and torch.equal(trained.codebook, fresh.codebook)
    assert set(fresh.state_dict()) == {"codebook", "ema_counts", "ema_sums", "unused"}


def test_learns_clusters() -> None:
    centres = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [-4, -4, -4]])
    layer = VectorQuantizer(4, 3, decay=0.8, restart_after=3)
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, 4, (64,), generator=generator)
        result = layer(centres[chosen] + 0.1 * torch.randn(64, 3, generator=generator))
    assert result.perplexity > 3.5
    assert (torch.cdist(centres, layer.codebook).amin(1) < 0.2).all()


def test_dead_codes_restart_from_the_batch() -> None:
    layer = VectorQuantizer(6, 3, restart_after=2)
    layer.codebook[3:] = 1e6  # nobody's nearest
    layer.ema_sums.copy_(layer.codebook)
    layer(images(seed=0))
    assert (layer.codebook[3:] > 1e5).all() and layer.unused[3:].tolist() == [1, 1, 1]
    x = images(seed=1)
    layer(x)
    rows = x.movedim(1, -1).reshape(-1, 3)
    distance = torch.cdist(layer.codebook[3:], rows)
    assert (distance.amin(1) < 1e-3).all() and distance.argmin(1).unique().numel() == 3
    assert layer.unused[3:].tolist() == [0, 0, 0]
    assert layer.ema_counts[3:].tolist() == [1, 1, 1]


def test_gradient_learns_the_codebook_without_averages() -> None:
    layer = VectorQuantizer(7, 3, ema=False, commitment=0.5)
    x = images().requires_grad_()
    before = layer.codebook.detach().clone()
    loss = layer(x).loss
    assert torch.equal(layer.codebook, before) and set(layer.state_dict()) == {"codebook"}
    by_x, by_codebook = torch.autograd.grad(loss, (x, layer.codebook))
    entries = before.clone().requires_grad_()
    rows = x.detach().movedim(1, -1).reshape(-1, 3)
    gathered = entries[torch.cdist(rows, before).argmin(1)]
    wanted = torch.autograd.grad((rows - gathered).square().mean(), entries)[0]
    torch.testing.assert_close(by_codebook, wanted)
    torch.testing.assert_close(by_x.movedim(1, -1).reshape(-1, 3), (rows - gathered.detach()) / x.numel())
    indices = torch.tensor([[0, 6]])
    assert torch.equal(layer.embed(indices), before[indices].movedim(-1, 1))


def test_layouts_dtypes_and_no_vectors() -> None:
    layer = VectorQuantizer(7, 3, restart_after=1).eval()
    x = images().contiguous(memory_format=torch.channels_last)
    result = layer(x)
    assert result.quantized.is_contiguous(memory_format=torch.channels_last)
    half = layer(x.bfloat16())
    assert half.quantized.dtype == torch.bfloat16 and half.loss.dtype == torch.float32
    layer.train()
    before = layer.codebook.clone()
    empty = layer(x[:0])
    assert empty.quantized.shape == (0, 3, 5, 6) and empty.indices.shape == (0, 5, 6) and empty.loss == 0
    torch.testing.assert_close(layer.codebook, before, rtol=1e-3, atol=0)


def test_impl_triton_trains_alike() -> None:
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = VectorQuantizer(7, 3).to(device)
    kernel = copy.deepcopy(plain)
    kernel.impl = "triton"
    x = images(1).to(device)
    one, other = plain(x), kernel(x)
    assert torch.equal(one.indices, other.indices)
    torch.testing.assert_close(plain.codebook, kernel.codebook)


def test_compiles_in_training() -> None:
    layer = VectorQuantizer(7, 3, restart_after=50)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x = images(seed=seed).requires_grad_()
        wanted, got = layer(x), compiled(x)
        torch.testing.assert_close(got.quantized, wanted.quantized)
        torch.testing.assert_close(got.loss, wanted.loss)
        torch.testing.assert_close(twin.codebook, layer.codebook)


def test_errors() -> None:
    for options, message in (
        ({"n_codes": 0}, "at least 1"),
        ({"decay": 1.0}, "decay must be in"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"restart_after": 0}, "restart_after must be at least 1"),
        ({"restart_after": 2, "ema": False}, "needs ema=True"),
    ):
        with pytest.raises(ValueError, match=f"VectorQuantizer: .*{message}"):
            VectorQuantizer(**{"n_codes": 4, "dim": 3, **options})
    with pytest.raises(ValueError, match="same D"):
        VectorQuantizer(4, 2)(images())
    half = VectorQuantizer(4, 3).bfloat16()
    half.eval()(images().bfloat16())
    with pytest.raises(TypeError, match="VectorQuantizer: moving averages must be kept in float32"):
        half.train()(images().bfloat16())


WORKER = """
from fastgen.nn import VectorQuantizer


def layer(**options):
    torch.manual_seed(0)
    made = VectorQuantizer(7, 3, decay=0.9, **options)
    torch.manual_seed(100 + rank)  # different noise and data from here on
    return made


trained, perplexities, from_first = layer(), [], []
restarting = layer(restart_after=1)
for step in range(3):
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(step))
    shares = (x[:1], x[1:]) if step < 2 else (x, x[:0])  # uneven, or all for one
    part = shares[rank]
    perplexities.append(trained(part).perplexity)
    restarting.codebook[4:] = restarting.ema_sums[4:] = 1e6
    restarting(part)
    from_first.append(torch.cdist(restarting.codebook[4:], shares[0].movedim(1, -1).reshape(-1, 3)).amin(1))
result = {
    "trained": trained.state_dict(),
    "perplexity": torch.stack(perplexities),
    "restarting": restarting.state_dict(),
    "from_first": torch.stack(from_first),
}
"""


def test_two_processes_hold_the_codebook_of_one(two_processes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = two_processes(WORKER)
    torch.manual_seed(0)
    alone = VectorQuantizer(7, 3, decay=0.9)
    perplexities = []
    for step in range(3):
        x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(step))
        perplexities.append(alone(x).perplexity)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["trained"][name], value, msg=lambda m, at=name: f"{at}: {m}")
        assert torch.equal(first["trained"][name], second["trained"][name]), name
    torch.testing.assert_close(first["perplexity"], torch.stack(perplexities))
    for name, value in first["restarting"].items():
        assert torch.equal(value, second["restarting"][name]), name
    assert (first["from_first"] < 1e-3).all()  # process 0's vectors, in both
