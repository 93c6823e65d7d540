"""Images through the codes of a variational autoencoder: restored bit for bit, at the size of the bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fastgen.codec import CodecError, bits_back, decode, encode
from fastgen.codec.coder import ans_coder
from fastgen.likelihoods import Bernoulli, DiscretizedLogisticMixture, Likelihood
from fastgen.models import VAE, ConditionalVAE, ConvVAE, Model


def built(kind: type[Any], likelihood: Likelihood, **options: Any) -> Model:
    torch.manual_seed(0)
    size = (8, 8) if kind is ConvVAE else (5, 4)
    model: Model = kind(image_channels=likelihood.channels, image_size=size, likelihood=likelihood, **options).eval()
    return model


MODELS = {
    "binary": (VAE, Bernoulli(1), {"latent_dim": 5}),
    "mixture": (VAE, DiscretizedLogisticMixture(3, 2), {"latent_dim": 3}),
    "convolutional": (ConvVAE, Bernoulli(1), {"latent_dim": 4}),
    "by class": (ConditionalVAE, Bernoulli(1), {"latent_dim": 2, "n_classes": 3}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_round_trip(name: str, n: int) -> None:
    kind, likelihood, options = MODELS[name]
    model = built(kind, likelihood, **options)
    x = torch.randint(0, model.levels, (n, model.channels, *model.image_size)).to(torch.uint8)
    labels = torch.arange(n) % model.n_classes if model.n_classes else None
    assert torch.equal(decode(model, encode(model, x, cond=labels)), x)
    assert torch.equal(decode(model, encode(model, x, cond=labels, batch_size=3)), x)


def test_the_size_is_the_negative_bound_and_not_that_of_the_codes_besides() -> None:
    """Bits that choose the codes are given back: without that, each image would cost its codes' entropy more."""
    model: Any = built(VAE, Bernoulli(1), latent_dim=10)
    x = torch.randint(0, 2, (200, 1, 5, 4)).to(torch.uint8)
    size = 8 * len(encode(model, x))
    with torch.no_grad():
        bound = float(-sum(model.log_prob(x).double() for _ in range(30)).sum()) / 30 / math.log(2)
        entropy = float((model.encode(x).log_var / 2).sum() + 0.5 * 2000 * math.log(2 * math.pi * math.e)) / math.log(2)
    given_back = entropy + 2000 * math.log2(bits_back.STEPS)
    assert given_back > 4 * bound
    assert abs(size - bound) < 0.03 * bound + 8 * (36 + 200 + 64)


def test_a_chain_ends_with_the_bits_that_it_began_with() -> None:
    model: Any = built(VAE, Bernoulli(1), latent_dim=5)
    x = torch.randint(0, 2, (3, 1, 5, 4)).to(torch.uint8)
    stream = bits_back.write_chain(model, x, None)
    assert torch.equal(bits_back.read_chain(model, stream, 3), x)
    with pytest.raises(ValueError, match="began with"):
        bits_back.read_chain(model, stream, 2)
    words = bits_back._initial(6)
    coder = ans_coder(words)
    assert coder.num_bits() == 32 * 6 and (words[:4] == bits_back._initial(4)).all()


def test_damage_and_other_weights_are_noticed() -> None:
    model: Any = built(VAE, Bernoulli(1), latent_dim=5)
    x = torch.randint(0, 2, (3, 1, 5, 4)).to(torch.uint8)
    data = encode(model, x)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(CodecError):
            decode(model, bytes(changed))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    with pytest.raises(CodecError, match="other weights"):
        decode(model, data)
