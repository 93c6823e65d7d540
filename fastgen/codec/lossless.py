"""Images to bytes and back by an autoregressive model: the bytes of a file are what the model needs to be told."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._version import __version__
from fastgen.codec.bits_back import read_chain, write_chain
from fastgen.codec.coder import Reader, StreamError, SymbolCoder, Writer
from fastgen.codec.container import MAX_VALUES, Batch, CodecError, Header, pack, unpack
from fastgen.codec.raster import walk
from fastgen.codec.tables import check_likelihood, frequencies
from fastgen.likelihoods import level_dtype
from fastgen.models import MADE, AutoregressiveModel, Model, MultiScalePixelCNN
from fastgen.models.autoencoders.variational import VariationalModel
from fastgen.sampling import available_methods

METHODS = ("naive", "cached", "native", "bits-back")
"""In the order of the numbers in files."""
BITS_BACK = METHODS[3]
NO_CONDITION, LABELS, BROUGHT = 0, 1, 2


def encode(
    model: AutoregressiveModel | VariationalModel,
    images: Tensor,
    *,
    cond: Any = None,
    batch_size: int | None = None,
    method: str = "auto",
) -> bytes:
    """Compress images without loss, to about -log2 p(image) bits each, or with a variational autoencoder to its bound.

    Labels are stored with the images; any other condition (a map, a vector, a gray image) must be brought again to
    `decode`. Images of a batch, 32 if nothing else is said, are coded side by side in one stream; of a variational
    autoencoder all of them, one into the other by bits back.

    Shapes: images [N, C, H, W], signals [N, C, T]; cond as the model takes it, with an entry for each image.
    Dtypes: levels of the model's likelihood, uint8 (int32 for more than 256).
    `method` is one of `fastgen.sampling.available_methods`, "auto" the fastest; the file remembers it.

    Raises:
        ValueError: a likelihood of densities, levels or a condition that do not fit the model.
        RuntimeError: the package constriction is missing.
    """
    _check_model(model)
    images = _check_images(model, images)
    device = next(model.parameters()).device
    methods = _methods(model)
    chosen = methods[0] if method == "auto" else method
    if chosen not in methods:
        raise ValueError(f"codec: method must be auto or one of {', '.join(methods)}; got {method!r}")
    if batch_size is None:
        batch_size = max(1, len(images)) if chosen == BITS_BACK else 32
    if batch_size < 1:
        raise ValueError(f"codec: batch_size must be at least 1; got {batch_size}")
    cond, kind = _check_cond(model, cond, len(images))
    batches = []
    with _evaluating(model):
        for start in range(0, len(images), batch_size):
            part = slice(start, min(start + batch_size, len(images)))
            stream = _write(model, images[part], _part(cond, part), kind, chosen)
            batches.append(Batch(*_checksums(images[part]), stream))
        threads = min(255, torch.get_num_threads())
        header = Header(
            METHODS.index(chosen), threads, _arithmetic(device), model_checksum(model), tuple(images.shape[1:]),
            len(images), batch_size, kind,
        )  # fmt: skip
    return pack(header, batches)


def decode(
    model: AutoregressiveModel | VariationalModel, data: bytes, *, cond: Any = None, max_values: int = MAX_VALUES
) -> Tensor:
    """The images that `encode` was given, bit for bit, or an error: never others.

    PyTorch runs with the number of threads of the encoder meanwhile. On a machine whose arithmetic differs the images
    may come out right or not, which their checksums tell; a warning says when it was another machine.

    Shapes: levels [N, C, H, W] or [N, C, T], on the model's device; `cond` only where the file holds no labels.

    Raises:
        CodecError: a damaged or foreign file, another model's, one that asks for more than `max_values` values, or one
            that this machine computes differently.
        ValueError: a condition that is missing or does not fit.
    """
    _check_model(model)
    header, batches = unpack(data, max_values)
    device = next(model.parameters()).device
    if header.model != model_checksum(model):
        raise CodecError(
            f"codec: the file was made with other weights or options than those of this {type(model).__name__}; got a "
            "model with another checksum; load the model that encoded it"
        )
    if len(header.shape) != 1 + len(model.axes) or header.shape[0] != model.channels or header.method >= len(METHODS):
        raise CodecError(f"codec: the model takes [C, {', '.join(model.axes)}]; got a file of {header.shape}")
    method = METHODS[header.method]
    if method not in _methods(model):
        raise CodecError(
            f"codec: the file was encoded by the method {method!r}, which cannot run here; decode on a machine where "
            f"`fastgen doctor` lists it, or encode with method='cached'"
        )
    other_machine = header.arithmetic != _arithmetic(device)
    if other_machine:
        warnings.warn("codec: the file was encoded by another machine or version; checksums will tell", stacklevel=2)
    if header.conditions == LABELS:
        if cond is not None:
            raise ValueError("codec: cond must be None, the file holds its labels; got a condition; leave it out")
    else:
        cond, _ = _check_cond(model, cond, header.n)
    out = torch.empty(0, *header.shape, dtype=level_dtype(model.levels), device=device)
    parts = [out]
    start = 0
    with _threads(header.threads), _evaluating(model):
        for batch in batches:
            n = len(batch.each)
            part = slice(start, start + n)
            try:
                images = _read(model, batch.stream, n, header, _part(cond, part), method)
            except StreamError as error:
                raise CodecError(_differs(start, header, other_machine, str(error))) from error
            together, each = _checksums(images)
            if (together, each) != (batch.together, batch.each):
                bad = [start + i for i in range(n) if each[i] != batch.each[i]]
                raise CodecError(_differs(bad[0] if bad else start, header, other_machine, "its checksum differs"))
            parts.append(images)
            start += n
    return torch.cat(parts)


def model_checksum(model: Model) -> bytes:
    """6 bytes of a hash of a model's class, options and weights."""
    digest = hashlib.blake2b(digest_size=6)
    digest.update(json.dumps([type(model).__name__, model.config], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _code(
    model: AutoregressiveModel,
    coder: SymbolCoder,
    images: Tensor | None,
    n: int,
    shape: tuple[int, ...],
    cond: Any,
    kind: int,
    method: str,
) -> Tensor:
    """Code a batch in either direction; its images."""
    if kind == LABELS:
        cond = coder.code(_uniform(n, model.n_classes), cond)
    if isinstance(model, MultiScalePixelCNN):
        return _scales(model, coder, images, n, shape, cond, method)
    if isinstance(model, MADE) and model.n_orders > 1:
        return _orders(model, coder, images, n, shape, method)
    return walk(model, coder, n, shape, images=images, cond=cond, method=method)


def _scales(
    model: MultiScalePixelCNN,
    coder: SymbolCoder,
    images: Tensor | None,
    n: int,
    shape: tuple[int, ...],
    cond: Any,
    method: str,
) -> Tensor:
    """The image of every scale around that of the scale before."""
    pyramid = None if images is None else model.pyramid(images)
    device = next(model.parameters()).device
    image = torch.empty(0)
    below = [1, *(int(factor) for factor in model.factors)]
    height, width = (side // _product(below) for side in shape[1:])
    for scale, network in enumerate(model.scales):
        height, width = height * below[scale], width * below[scale]
        source, known, given = None if pyramid is None else pyramid[scale], None, cond
        if scale:
            step = below[scale]
            known = torch.zeros(height, width, dtype=torch.bool, device=device)
            known[::step, ::step] = True
            if source is None:
                source = torch.zeros(n, shape[0], height, width, dtype=image.dtype, device=device)
                source[:, :, ::step, ::step] = image
            given = model.conditions(image, cond)
        image = walk(
            network, coder, n, (shape[0], height, width), images=source, known=known, cond=given, method=method
        )
    return image


def _orders(
    model: MADE, coder: SymbolCoder, images: Tensor | None, n: int, shape: tuple[int, ...], method: str
) -> Tensor:
    """Each image in the order that makes it shortest, which is told first."""
    best = None
    if images is not None:
        with torch.inference_mode():
            best = torch.stack([model.component(k).log_prob(images) for k in range(model.n_orders)]).argmax(0)
    order = coder.code(_uniform(n, model.n_orders), best)
    out = torch.zeros(n, *shape, dtype=level_dtype(model.likelihood.levels), device=next(model.parameters()).device)
    for k in range(model.n_orders):
        own = (order == k).nonzero()[:, 0]
        if len(own):
            source = None if images is None else images[own]
            out[own] = walk(model.component(k), coder, len(own), shape, images=source, method=method)
    return out


def _uniform(n: int, choices: int) -> Tensor:
    return frequencies(torch.ones(n, choices, dtype=torch.float64))


def _product(numbers: list[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, (AutoregressiveModel, VariationalModel)):
        raise ValueError(
            "codec: the model must be autoregressive, with an exact likelihood of images, or a variational "
            f"autoencoder; got {type(model).__name__}"
        )
    check_likelihood(model.likelihood)


def _methods(model: AutoregressiveModel | VariationalModel) -> list[str]:
    """How the model can be coded here, the fastest first."""
    if isinstance(model, VariationalModel):
        return [BITS_BACK]
    parameter = next(model.parameters())
    return [method for method in available_methods(parameter.device, parameter.dtype) if method in METHODS]


def _write(model: AutoregressiveModel | VariationalModel, images: Tensor, cond: Any, kind: int, method: str) -> bytes:
    """The stream of a batch."""
    if isinstance(model, VariationalModel):
        return write_chain(model, images, cond)
    writer = Writer()
    _code(model, writer, images, len(images), tuple(images.shape[1:]), cond, kind, method)
    return writer.finish()


def _read(
    model: AutoregressiveModel | VariationalModel, stream: bytes, n: int, header: Header, cond: Any, method: str
) -> Tensor:
    """The images of a batch."""
    if isinstance(model, VariationalModel):
        return read_chain(model, stream, n)
    return _code(model, Reader(stream), None, n, header.shape, cond, header.conditions, method)


def _check_images(model: Model, images: Tensor) -> Tensor:
    """Levels on the model's device."""
    wanted = level_dtype(model.levels)
    if images.dtype != wanted:
        kind = str(wanted).removeprefix("torch.")
        raise ValueError(f"codec: images must be {kind} levels; got {images.dtype}; encode what is to be given back")
    model.prepare_input(images)  # its errors
    return images.to(next(model.parameters()).device)


def _check_cond(model: Model, cond: Any, n: int) -> tuple[Any, int]:
    """What n images are conditioned on, and what a file holds of it."""
    if cond is not None and model.n_classes and not isinstance(cond, Mapping):
        return Model.prepare_cond(model, cond, n), LABELS
    model.prepare_cond(cond, n)  # its errors
    return cond, NO_CONDITION if cond is None else BROUGHT


def _part(cond: Any, part: slice) -> Any:
    if isinstance(cond, Mapping):
        return {key: _part(value, part) for key, value in cond.items()}
    if cond is None:
        return None
    # in one layout, as libraries choose their convolutions by it, and those round differently
    return torch.as_tensor(cond)[part].clone(memory_format=torch.contiguous_format)


def _checksums(images: Tensor) -> tuple[int, bytes]:
    """CRC-32 of the images together, and the last byte of that of each."""
    raw = [image.contiguous().cpu().numpy().astype("<i4").tobytes() for image in images]
    return zlib.crc32(b"".join(raw)), bytes(zlib.crc32(one) & 255 for one in raw)


def _arithmetic(device: torch.device) -> bytes:
    """2 bytes of a hash of what may round differently: the versions, and the processor's instructions or the GPU."""
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    facts = (__version__, torch.__version__, platform.machine(), device.type, unit)
    return hashlib.blake2b("|".join(facts).encode(), digest_size=2).digest()


def _differs(image: int, header: Header, other_machine: bool, what: str) -> str:
    reason = (
        "it was encoded by another machine or version, which computes otherwise: decode there"
        if other_machine
        else "this machine computes otherwise than the one that encoded it: decode there"
    )
    if header.conditions == BROUGHT:
        reason = f"the condition is not the one that it was encoded with, or {reason}"
    return f"codec: image {image} cannot be restored; {what}; {reason}"


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
