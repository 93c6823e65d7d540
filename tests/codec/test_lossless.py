"""Images come back bit for bit, at the size that the likelihood says, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen.codec.lossless as lossless
from fastgen.codec import CodecError, decode, encode
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian
from fastgen.models import (
    FVSBN,
    MADE,
    NADE,
    AutoregressiveModel,
    Colorization,
    GatedPixelCNN,
    ImageGPT,
    MultiScalePixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    SuperResolution,
    WaveNet,
)

Make = Callable[[], AutoregressiveModel]

PP = {"n_resnet": 1, "n_filters": 6, "n_mix": 2}
GATED = {"n_layers": 2, "n_filters": 6, "kernel_size": 3, "first_kernel_size": 3, "head_filters": 6}
MODELS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "PixelCNN++ RGB": (lambda: PixelCNNPP(image_channels=3, **PP), (3, 5, 6)),
    "PixelCNN++ odd": (lambda: PixelCNNPP(image_channels=1, **PP), (1, 7, 3)),
    "PixelCNN RGB": (lambda: PixelCNN(3, n_filters=6, n_blocks=1, likelihood=Categorical(3, 5)), (3, 4, 5)),
    "PixelCNN binary": (lambda: PixelCNN(1, n_filters=6, n_blocks=1, likelihood=Bernoulli(1)), (1, 5, 3)),
    "Gated labels": (lambda: GatedPixelCNN(1, n_classes=3, likelihood=Categorical(1, 256), **GATED), (1, 5, 4)),
    "Row LSTM": (lambda: PixelRNN(1, 1, 5, "row_lstm", head_filters=6, likelihood=Bernoulli(1)), (1, 4, 5)),
    "PixelSNAIL": (
        lambda: PixelSNAIL(
            3, 1, 1, 6, 0, dropout=0.0, key_channels=4, value_channels=6, head_filters=6,
            likelihood=DiscretizedLogisticMixture(3, 2),
        ),
        (3, 4, 4),
    ),
    "Image GPT": (
        lambda: ImageGPT(1, 1, 8, 2, head_filters=8, likelihood=Categorical(1, 4), image_size=(4, 5)), (1, 4, 5)
    ),
    "FVSBN": (lambda: FVSBN(1, image_size=(3, 4)), (1, 3, 4)),
    "NADE RGB": (lambda: NADE(3, 7, image_size=(3, 3)), (3, 3, 3)),
    "MADE": (lambda: MADE(1, (9,), "random", 2, likelihood=Categorical(1, 4), image_size=(3, 4)), (1, 3, 4)),
    "MADE of two orders": (lambda: MADE(1, (9,), "random", n_orders=2, image_size=(3, 4)), (1, 3, 4)),
    "multi-scale labels": (
        lambda: MultiScalePixelCNN(
            1, (2,), n_classes=3, cond_filters=4, likelihood=Categorical(1, 4), **{**GATED, "n_layers": 1}
        ),
        (1, 4, 6),
    ),
    "WaveNet": (
        lambda: WaveNet(1, 1, 6, 3, dilations=(1, 2), skip_filters=6, head_filters=6, likelihood=Categorical(1, 5)),
        (1, 11),
    ),
    "WaveNet of 16 bits": (
        lambda: WaveNet(
            1, 1, 6, 0, dilations=(1, 2), skip_filters=6, head_filters=6, encoding="linear",
            likelihood=DiscretizedLogisticMixture(1, 2, bits=16),
        ),
        (1, 6),
    ),
}  # fmt: skip


def built(name: str) -> tuple[AutoregressiveModel, tuple[int, ...]]:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), shape


def some(model: AutoregressiveModel, n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Images that the model finds neither likely nor impossible, and labels."""
    dtype = torch.uint8 if model.likelihood.levels <= 256 else torch.int32
    cond = torch.arange(n) % model.n_classes if model.n_classes else None
    return torch.randint(0, model.likelihood.levels, (n, *shape)).to(dtype), cond


def bits(model: AutoregressiveModel, x: Tensor, cond: Any) -> float:
    with torch.no_grad():
        nats = -(model.log_prob(x) if cond is None else model.log_prob(x, cond)).sum()
    return float(nats) / math.log(2)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_of_every_model(name: str) -> None:
    model, shape = built(name)
    x, cond = some(model, 3, shape)
    data = encode(model, x, cond=cond, batch_size=2)
    assert torch.equal(decode(model, data), x)
    extra = 3 * math.log2(max(1, model.n_classes, getattr(model, "n_orders", 1)))
    assert len(data) <= 1.005 * (bits(model, x, cond) + extra) / 8 + 2 * 64


@pytest.mark.parametrize("method", ["naive", "cached", "native"])
@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (1, 1), (5, 2)])
def test_methods_and_batches(method: str, n: int, batch_size: int) -> None:
    model, shape = built("PixelCNN RGB")
    x, _ = some(model, n, shape)
    assert torch.equal(decode(model, encode(model, x, batch_size=batch_size, method=method)), x)


def test_the_size_is_what_the_likelihood_says() -> None:
    model, _ = built("PixelCNN++ RGB")
    x = model.sample(4, shape=(3, 16, 16), seed=1)
    size = len(encode(model, x))
    assert bits(model, x, None) / 8 < size <= 1.005 * bits(model, x, None) / 8 + 64


@pytest.mark.parametrize("kind", [Colorization, SuperResolution])
def test_conditions_that_are_images_are_brought_again(kind: type[Any]) -> None:
    torch.manual_seed(0)
    options = {**GATED, "cond_layers": 1, "likelihood": DiscretizedLogisticMixture(3, 2)}
    model = kind(3, **options).eval()
    x = torch.randint(0, 256, (3, 3, 4, 6)).to(torch.uint8)
    cond = model.condition_of(x)
    data = encode(model, x, cond=cond, batch_size=2)
    assert torch.equal(decode(model, data, cond=cond), x)
    with pytest.raises(ValueError, match="cond must hold map"):
        decode(model, data)
    with pytest.raises(CodecError, match="cannot be restored"):
        decode(model, data, cond=255 - cond)


def test_the_threads_of_the_encoder_are_used_and_given_back() -> None:
    model, shape = built("Gated labels")
    x, cond = some(model, 3, shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        data = encode(model, x, cond=cond)
        torch.set_num_threads(1)
        assert torch.equal(decode(model, data), x)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_another_machine_is_told_and_its_images_are_right_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = built("Gated labels")
    x, cond = some(model, 2, shape)
    data = encode(model, x, cond=cond)
    monkeypatch.setattr(lossless, "_arithmetic", lambda device: b"??")
    with pytest.warns(UserWarning, match="another machine"):
        assert torch.equal(decode(model, data), x)
    tables = lossless.frequencies

    def rounded_otherwise(probability: Tensor) -> Tensor:
        return tables(probability * (1 + 1e-3 * torch.arange(probability.shape[1])))

    monkeypatch.setattr("fastgen.codec.raster.frequencies", rounded_otherwise)
    with pytest.warns(UserWarning), pytest.raises(CodecError, match="another machine or version, which computes"):
        decode(model, data)


def test_another_model_is_refused() -> None:
    model, shape = built("FVSBN")
    data = encode(model, some(model, 2, shape)[0])
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(CodecError, match="other weights or options"):
        decode(model, data)
    with pytest.raises(CodecError, match="other weights or options"):
        decode(built("NADE RGB")[0], data)


def test_every_damaged_byte_is_noticed() -> None:
    model, shape = built("PixelCNN binary")
    data = encode(model, some(model, 2, shape)[0])
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x40
        with pytest.raises(CodecError):
            decode(model, bytes(changed))


def test_a_stream_of_other_images_fails_its_checksum() -> None:
    model, shape = built("PixelCNN binary")
    x, _ = some(model, 2, shape)
    header, batches = lossless.unpack(encode(model, x))
    other = lossless.unpack(encode(model, 1 - x))[1][0]
    swapped = lossless.Batch(batches[0].together, batches[0].each, other.stream)
    with pytest.raises(CodecError, match="its checksum differs"):
        decode(model, lossless.pack(header, [swapped]))


def test_bad_input() -> None:
    model, shape = built("PixelCNN binary")
    x, _ = some(model, 2, shape)
    with pytest.raises(ValueError, match="uint8 levels"):
        encode(model, x.float())
    with pytest.raises(ValueError, match=r"levels must be in 0\.\.1"):
        encode(model, x + 2)
    with pytest.raises(ValueError, match="batch_size"):
        encode(model, x, batch_size=0)
    with pytest.raises(ValueError, match="method must be"):
        encode(model, x, method="fast")
    with pytest.raises(ValueError, match="every level a probability"):
        encode(PixelCNN(1, n_filters=4, n_blocks=1, likelihood=Gaussian(1)), x)
    with pytest.raises(ValueError, match="must be autoregressive"):
        encode(torch.nn.Linear(2, 2), x)  # type: ignore[arg-type]
    labelled, shape = built("Gated labels")
    x, cond = some(labelled, 2, shape)
    with pytest.raises(ValueError, match="labels must be in"):
        encode(labelled, x, cond=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="the file holds its labels"):
        decode(labelled, encode(labelled, x, cond=cond), cond=cond)
