"""Images through the codes of a variational autoencoder: the bits that choose a code are given back.

The writer takes a code z from the bits that it has written so far, as if they had been drawn from q(z | x), then writes
x by p(x | z) and z by p(z). The reader knows x when it has read both, so it can restore the bits that chose z. An image
costs -log p(x | z) - log p(z) + log q(z | x), in the mean over z the negative evidence lower bound.

Latents are multiples of 1/256 within 10 standard deviations of the prior; both distributions of them are normal
distributions of whole numbers. The networks see one image at a time, so that writer and reader compute alike.

Source: Townsend, Bird, Barber, "Practical Lossless Compression with Latent Variables using Bits Back Coding", ICLR
2019, https://arxiv.org/abs/1901.04866; Duda, "Asymmetric numeral systems", 2013, https://arxiv.org/abs/1311.2540.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.codec.coder import StreamError, ans_coder, categorical, normal, table_of
from fastgen.codec.tables import frequencies, probabilities
from fastgen.likelihoods import level_dtype
from fastgen.models.autoencoders.variational import VariationalModel

STEPS = 256
"""Places of a latent to a standard deviation of the prior."""
REACH = 10
MAX_INITIAL_WORDS = 1 << 20


@torch.inference_mode()
def write_chain(model: VariationalModel, images: Tensor, labels: Tensor | None) -> bytes:
    """Code images one into the other, the last one first, and the labels with them. Shapes: [N, C, H, W], [N]."""
    coder: Any = ans_coder(_initial(_enough_words(model, images, labels)))
    for index in range(len(images) - 1, -1, -1):
        one = slice(index, index + 1)
        x, label = images[one], None if labels is None else labels[one]
        z = coder.decode(normal(-REACH * STEPS, REACH * STEPS), *_posterior(model, x, label))
        _write_image(model, coder, x, _codes(model, z), label)
        coder.encode_reverse(z, normal(-REACH * STEPS, REACH * STEPS), *_prior(len(z)))
        if label is not None:
            coder.encode_reverse(_numbers(label), categorical(), table_of(_uniform(model)))
    data: Any = coder.get_compressed()
    return data.astype("<u4").tobytes()


@torch.inference_mode()
def read_chain(model: VariationalModel, stream: bytes, n: int) -> Tensor:
    """What `write_chain` coded. Shapes: [n, C, H, W].

    Raises:
        StreamError: bytes that it did not write, or that were written by another arithmetic.
    """
    if len(stream) % 4:
        raise StreamError("a chain is made of words of 4 bytes")
    device = next(model.parameters()).device
    try:
        coder: Any = ans_coder(np.frombuffer(stream, "<u4").astype(np.uint32))
    except ValueError as error:
        raise StreamError("a chain does not end with a zero word") from error
    images = []
    for _ in range(n):
        label = None
        if model.n_classes:
            label = torch.from_numpy(coder.decode(categorical(), table_of(_uniform(model)))).long().to(device)
        z = coder.decode(normal(-REACH * STEPS, REACH * STEPS), *_prior(math.prod(model.latent_shape)))
        x = _read_image(model, coder, _codes(model, z), label)
        coder.encode_reverse(z, normal(-REACH * STEPS, REACH * STEPS), *_posterior(model, x, label))
        images.append(x)
    rest: Any = coder.get_compressed()
    if len(rest) > MAX_INITIAL_WORDS or not np.array_equal(rest, _initial(len(rest))):
        raise StreamError("the bits that the chain began with are not there at its end")
    shape = (model.channels, *model.image_size)
    return torch.cat(images) if images else torch.empty(0, *shape, dtype=level_dtype(model.levels), device=device)


def _write_image(model: VariationalModel, coder: Any, x: Tensor, z: Tensor, label: Tensor | None) -> None:
    """The values of an image [1, C, H, W], last channel first."""
    params = _per_pixel(model.decode(z, label))
    levels = _per_pixel(x)
    for c in range(model.channels - 1, -1, -1):
        counts = frequencies(probabilities(model.likelihood, params, levels[:, :c]))
        coder.encode_reverse(_numbers(levels[:, c]), categorical(), table_of(counts))


def _read_image(model: VariationalModel, coder: Any, z: Tensor, label: Tensor | None) -> Tensor:
    params = _per_pixel(model.decode(z, label))
    levels = torch.zeros(len(params), model.channels, dtype=level_dtype(model.levels), device=params.device)
    for c in range(model.channels):
        counts = frequencies(probabilities(model.likelihood, params, levels[:, :c]))
        found = coder.decode(categorical(), table_of(counts))
        levels[:, c] = torch.from_numpy(found).to(levels)
    return levels.view(1, *model.image_size, model.channels).permute(0, 3, 1, 2).contiguous()


def _per_pixel(image: Tensor) -> Tensor:
    """[1, K, H, W] -> [H W, K]."""
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def _posterior(model: VariationalModel, x: Tensor, label: Tensor | None) -> tuple[Any, Any]:
    """Mean and standard deviation of the places of an image's latents. Shapes: [latents] float64 both."""
    # strides of axes of size 1 too: libraries choose their convolutions by them, and those round differently
    mean, log_var = model.encode(x.clone(memory_format=torch.contiguous_format), label)
    places = mean.double().flatten().clamp(-REACH, REACH) * STEPS
    spread = (log_var.double().flatten() / 2).exp().clamp(0.25 / STEPS, REACH) * STEPS
    return places.cpu().numpy(), spread.cpu().numpy()


def _prior(latents: int) -> tuple[Any, Any]:
    return np.zeros(latents), np.full(latents, float(STEPS))


def _codes(model: VariationalModel, places: Any) -> Tensor:
    parameter = next(model.parameters())
    return torch.from_numpy(places / STEPS).to(parameter).view(1, *model.latent_shape)


def _uniform(model: VariationalModel) -> Tensor:
    return frequencies(torch.ones(1, model.n_classes, dtype=torch.float64))


def _numbers(symbols: Tensor) -> Any:
    return symbols.cpu().numpy().astype(np.int32)


def _enough_words(model: VariationalModel, images: Tensor, labels: Tensor | None) -> int:
    """As few words as the first code can be taken from without emptying the stack, which would lose bits."""
    if not len(images):
        return 0
    posterior = _posterior(model, images[-1:], None if labels is None else labels[-1:])
    words = 4
    while True:
        coder: Any = ans_coder(_initial(words))
        coder.decode(normal(-REACH * STEPS, REACH * STEPS), *posterior)
        if coder.num_bits() > 64:
            return words
        words += 2


def _initial(words: int) -> Any:
    """The bits that a chain begins with, the same in all files; never zero, as the last of a stack must not be."""
    return np.random.RandomState(1).randint(1, 2**32, size=words, dtype=np.uint32)
