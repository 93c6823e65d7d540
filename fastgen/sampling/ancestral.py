"""Ancestral sampling: draw the pixels one after another, each given those before."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.likelihoods import Likelihood, levels_to_signal, signal_to_levels
from fastgen.sampling.dense import DenseExecutor, DenseNativeExecutor, plan_dense, record
from fastgen.sampling.executors import (
    CachedExecutor,
    CachedStreamExecutor,
    Executor,
    GraphExecutor,
    GraphStreamExecutor,
    LoweredExecutor,
    MegakernelExecutor,
    MegakernelStreamExecutor,
    NaiveExecutor,
    NativeExecutor,
    StreamExecutor,
    why_no_graphs,
    why_no_megakernel,
    why_not,
)
from fastgen.sampling.executors.lowered import PRECISIONS
from fastgen.sampling.noise import uniforms
from fastgen.sampling.normalize import normalize
from fastgen.sampling.order import InDrawingOrder, in_drawing_order
from fastgen.sampling.plan import plan
from fastgen.sampling.trace import TraceError, trace

# Best first, as far as it has been measured. No GPU has run "cuda_graph" and "megakernel" yet: they stand behind
# "cached", so that "auto" does not take them, until a recorded run shows them to be right and faster.
METHODS = ("native", "cached", "cuda_graph", "megakernel", "naive")


def available_methods(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
    """Sampling methods that a device supports; "auto" takes the first that fits the model.

    "native" runs the cached program in compiled C (on the CPU, where there is a C compiler), "cached" as PyTorch calls
    on any device. On CUDA "cuda_graph" replays it as captured kernels, and "megakernel" runs every row of it as one
    persistent kernel, if each step has one; "auto" takes neither before a GPU has measured it to be faster. "naive" is
    one full forward for every pixel.
    """
    return [method for method in METHODS if _why_not(method, torch.device(device), dtype) is None]


def _why_not(method: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a method cannot run on a device, or None if it can."""
    reasons = {"cuda_graph": why_no_graphs, "megakernel": why_no_megakernel, "native": why_not}
    return reasons[method](device, dtype) if method in reasons else None


@overload
def sample(
    model: nn.Module,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    temperature: float | Sequence[float] = 1.0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    cond: Any = None,
    method: str = "auto",
    progress: bool = False,
    batch_size: int | None = None,
    first_image: int = 0,
    images: Tensor | None = None,
    prepared: Executor | None = None,
    return_log_prob: Literal[False] = False,
) -> Tensor: ...


@overload
def sample(
    model: nn.Module,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    temperature: float | Sequence[float] = 1.0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    cond: Any = None,
    method: str = "auto",
    progress: bool = False,
    batch_size: int | None = None,
    first_image: int = 0,
    images: Tensor | None = None,
    prepared: Executor | None = None,
    return_log_prob: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def sample(
    model: nn.Module,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    temperature: float | Sequence[float] = 1.0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    cond: Any = None,
    method: str = "auto",
    progress: bool = False,
    batch_size: int | None = None,
    first_image: int = 0,
    images: Tensor | None = None,
    prepared: Executor | None = None,
    return_log_prob: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw images from an autoregressive model: x_i ~ p(x_i | x_<i), pixel by pixel in raster order.

    The noise is a function of (seed, image, row, column, draw) alone, so image k of a seed is the same image at any
    batch size and by every method.

    Shapes: result [n, C, H, W] uint8 levels on the model's device. `shape` is (C, H, W), by default the one the model
        was trained on. `given` is uint8 levels [n or 1, C, H, W]; where `mask` [n or 1, 1 or C, H, W] is True, its
        pixels are kept and not drawn, and every pixel after them sees them. `cond` is what the model documents,
        for class-conditional models int64 labels [n], or one label for all. For models of sequences [N, C, T] `shape`
        is (C, T), and so are the others' last axes.
    Dtypes: logits and draws in the dtype of the model's parameters, noise in float32. More than 256 levels are int32.
    `temperature` scales the spread of every draw (0 is the mode), of all channels or one number for each; a mixture,
    which all channels share, is drawn at their mean. `method` is "auto" or one of `available_methods`;
    `batch_size` bounds how many images are drawn side by side; `first_image` is the index of the first one, or `images`
    [n] int64 holds the index of each.
    `prepared`, from `prepare`, saves tracing and planning the model again; it has its own shape, labels and method.
    `return_log_prob` also returns log p(image), nats [n] in float64, from the parameters that were drawn from; it is
    what `model.log_prob` of the images gives, without another forward.

    Raises: ValueError for arguments that do not fit; CausalityError for a model that sees the pixel it predicts;
        TraceError if `method="cached"` and the model does something the engine has no rule for ("auto" warns and
        takes "naive").
    """
    model = in_drawing_order(model)
    likelihood = _likelihood_of(model)
    if n < 0:
        raise ValueError(f"sample: n must not be negative; got {n}")
    temperatures = _check_temperature(temperature, likelihood.channels)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"sample: batch_size must be at least 1; got {batch_size}")
    if prepared is not None:
        _check_prepared(prepared, n, shape, cond, return_log_prob)
        channels, height, width = prepared.image_shape
        shape = (channels, width) if prepared.is_sequence else (channels, height, width)
    shape = _shape_of(model, shape, given)
    parameter = next(model.parameters())
    given, mask = _check_given(given, mask, n, shape, likelihood.levels)
    if isinstance(model, InDrawingOrder) and given is not None and mask is not None:
        given, mask = model.arrange(given), model.arrange(mask)
    cond = _check_cond(model, cond, n) if prepared is None else None
    if prepared is not None:
        batch_size = prepared.n_images
    batch_size = batch_size or min(n, 64 if parameter.device.type == "cpu" else 256)
    images = _check_images(images, first_image, n)
    dtype = torch.uint8 if likelihood.levels <= 256 else torch.int32
    out = torch.empty(n, *shape, dtype=dtype, device=parameter.device)
    log_prob = torch.zeros(n, dtype=torch.float64, device=parameter.device)
    raster = _raster(shape)
    executor = prepared
    with _Progress(progress, n, raster) as advance:
        for start in range(0, n, batch_size or 1):
            stop = min(start + batch_size, n)
            part = slice(start, stop)
            if executor is None or (prepared is None and cond is not None):
                batch = parameter.new_zeros(batch_size if cond is None else stop - start, *shape)
                executor = _executor(model, batch, _part_of(cond, part), method, return_log_prob)
            # a last batch that is too small is filled up with the last image
            rows = torch.arange(start, start + executor.n_images).clamp_(max=n - 1)
            noise = _Noise(seed, images[rows.to(images.device)], raster, likelihood, parameter.device)
            kept = None if given is None or mask is None else (_rows(given, rows), _rows(mask, rows))
            draw = _Draw(likelihood, noise, temperatures, kept, executor.substeps, parameter)
            score = _Score(likelihood, raster, parameter, executor.n_images) if return_log_prob else None
            signal = run(executor, raster, draw, parameter.new_empty(executor.n_images, *raster), advance, score)
            signal = model.restore(signal) if isinstance(model, InDrawingOrder) else signal
            out[part] = signal_to_levels(signal[: stop - start].view(stop - start, *shape), likelihood.levels)
            if score is not None:
                log_prob[part] = score.total[: stop - start]
    return (out, log_prob) if return_log_prob else out


def teacher_forced(model: nn.Module, x: Tensor, *, cond: Any = None, method: str = "auto") -> Tensor:
    """The parameters that a sampler computes at every pixel when the image is given instead of drawn.

    By construction they equal `model(x, cond)`; that they do is the proof that a method samples exactly.

    Shapes: x uint8 levels or float in [-1, 1], [N, C, H, W] or [N, C, T]; result [N, P, H, W] or [N, P, T].
    Raises: as `sample`.
    """
    model = in_drawing_order(model)
    likelihood = _likelihood_of(model)
    parameter = next(model.parameters())
    signal = x if x.is_floating_point() else levels_to_signal(x, likelihood.levels, parameter.dtype)
    signal = signal.to(parameter.device, parameter.dtype)
    signal = model.arrange(signal) if isinstance(model, InDrawingOrder) else signal
    cond = _check_cond(model, cond, len(x))
    executor = _executor(model, torch.zeros_like(signal), cond, method)
    shape, signal = tuple(signal.shape[2:]), signal.view(len(x), *_raster(tuple(signal.shape[1:])))
    out = signal.new_empty(len(x), likelihood.n_params, *signal.shape[2:])
    parts = _parts(likelihood) if executor.substeps > 1 else [slice(0, likelihood.n_params)]

    def draw(row: int, column: int, group: int, params: Tensor) -> Tensor:
        out[:, parts[group], row, column] = params[:, parts[group]]
        channels = slice(group, group + 1) if executor.substeps > 1 else slice(None)
        return signal[:, channels, row, column]

    run(executor, tuple(signal.shape[1:]), draw, torch.empty_like(signal), lambda: None)
    out = model.restore(out) if isinstance(model, InDrawingOrder) else out
    return out.view(*out.shape[:2], *shape)


def prepare(
    model: nn.Module,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    cond: Any = None,
    method: str = "auto",
    precision: str | None = None,
    return_log_prob: bool = False,
) -> Executor:
    """Trace and plan a model once, for any number of calls `sample(model, k, ..., prepared=...)` with k <= n images.

    The result holds the weights as they are now, and `cond` (as in `sample`) for its n images. Only one that was
    prepared with `return_log_prob` can serve calls with it. `precision` ("bfloat16" or "float16"; by default that of
    the model) rounds the weights of what is computed per pixel, and their inputs; sums, caches and logits stay in the
    dtype of the model. It is for method="cuda_graph" and "megakernel".

    Raises: as `sample`; ValueError for a precision that is unknown or that the method does not have.
    """
    model = in_drawing_order(model)
    shape = _shape_of(model, shape, None)
    image = next(model.parameters()).new_zeros(n, *shape)
    executor = _executor(model, image, _check_cond(model, cond, n), method, return_log_prob, precision)
    executor.is_sequence = len(shape) == 2
    return executor


def _executor(
    model: nn.Module,
    image: Tensor,
    cond: Any,
    method: str,
    keep_parameters: bool = False,
    precision: str | None = None,
    explaining: bool = False,
) -> Executor:
    """The fastest executor that `method` allows, for images like `image`; it need not run here to be explained."""
    if method not in (*METHODS, "auto"):
        raise unknown_name("sampling method", method, (*METHODS, "auto"))
    likelihood = _likelihood_of(model)
    parts = _parts(likelihood)
    reason = _why_not(method, image.device, image.dtype)
    if reason and not (explaining and method == "cuda_graph"):
        raise ValueError(f'sample: method="{method}" cannot run: {reason}; method="auto" takes what can')
    able = [m for m in METHODS if method == m or (method == "auto" and not _why_not(m, image.device, image.dtype))]
    _check_precision(precision, able[0])
    if method != "naive":
        try:
            # constants that differ between the images need all of them; otherwise one image shows the whole graph
            traced = trace(model, torch.zeros_like(image if cond is not None else image[:1]), cond)
            program = plan(normalize(traced), parts)
            if able[0] == "cuda_graph":
                replayed = GraphStreamExecutor if StreamExecutor.fits(program) else GraphExecutor
                return replayed(program, len(image), image, likelihood, keep_parameters, precision=precision)
            if able[0] == "megakernel":
                persistent = MegakernelStreamExecutor if StreamExecutor.fits(program) else MegakernelExecutor
                return persistent(program, len(image), image, likelihood, keep_parameters, precision=precision)
            if able[0] == "cached":
                in_pytorch = CachedStreamExecutor if StreamExecutor.fits(program) else CachedExecutor
                return in_pytorch(program, len(image), image)
            executor = StreamExecutor if StreamExecutor.fits(program) else NativeExecutor
            return executor(program, len(image), image, likelihood, keep_parameters)
        except (TraceError, ValueError) as error:
            reasons = error
            flattened = isinstance(error, TraceError) and error.flattened
            # an image of one row or column may be flattened without a trace
            if image.dim() == 4 and (flattened or 1 in image.shape[2:]) and method != "megakernel":
                try:
                    return _dense_executor(model, image, cond, "native" not in able, keep_parameters)
                except (TraceError, ValueError) as dense_error:
                    reasons = dense_error if flattened else error
            if method != "auto" or not isinstance(reasons, TraceError):
                raise reasons from None
            warnings.warn(f"sampling is slow: one full forward for every pixel; {reasons}", stacklevel=3)
    return NaiveExecutor(model, image, cond, len(parts))


def _dense_executor(
    model: nn.Module, image: Tensor, cond: Any, in_pytorch: bool, keep_parameters: bool
) -> DenseExecutor:
    """The executor of a model over flattened images."""
    likelihood = _likelihood_of(model)
    program = plan_dense(record(model, torch.zeros_like(image), cond), _parts(likelihood))
    if in_pytorch:
        return DenseExecutor(program, len(image), image)
    return DenseNativeExecutor(program, len(image), image, likelihood, keep_parameters)


DrawFunction = Callable[[int, int, int, Tensor], Tensor]


@torch.inference_mode()
def run(
    executor: Executor,
    shape: tuple[int, ...],
    draw: DrawFunction,
    out: Tensor,
    advance: Callable[[], object],
    score: _Score | None = None,
) -> Tensor:
    """Visit the pixels in raster order; x = draw(row, column, group, parameters) goes to the executor and `out`."""
    _, height, width = shape
    executor.start()
    if (
        isinstance(executor, DenseNativeExecutor)
        and isinstance(draw, _Draw)
        and executor.draws(draw.likelihood)
        and (score is None or executor.image_parameters is not None)
    ):
        return _whole_images(executor, draw, out, advance, score)
    draw_row = _row_sampler(executor, draw)
    for row in range(height):
        executor.begin_row(row)
        if draw_row is not None:
            out[:, :, row], row_params = draw_row(row)
            if score is not None and row_params is not None:
                score.params[:] = row_params
        else:
            for column in range(width):
                for group in range(executor.substeps):
                    params = executor.parameters(column, group)
                    x = draw(row, column, group, params)
                    executor.write(column, group, x)
                    if executor.substeps == 1:
                        out[:, :, row, column] = x
                    else:
                        out[:, group : group + 1, row, column] = x
                if score is not None:
                    score.params[:, :, column] = params
            executor.end_row()
        if score is not None:
            score.add(out[:, :, row])
        advance()
    return out


def _whole_images(
    executor: DenseNativeExecutor, draw: _Draw, out: Tensor, advance: Callable[[], object], score: _Score | None
) -> Tensor:
    """Draw all pixels at once."""
    n, channels, height, width = out.shape
    out.copy_(executor.draw_images(*draw.image()).view(n, height, width, channels).permute(0, 3, 1, 2))
    for row in range(height):
        if score is not None and executor.image_parameters is not None:
            score.params[:] = executor.image_parameters[:, row * width : (row + 1) * width].permute(0, 2, 1)
            score.add(out[:, :, row])
        advance()
    return out


def _row_sampler(executor: Executor, draw: DrawFunction) -> Callable[[int], tuple[Tensor, Tensor | None]] | None:
    """A function that draws a whole row, where the executor can: [N, C, W], and the parameters [N, P, W] if kept."""
    if not isinstance(executor, (LoweredExecutor, NativeExecutor)) or not isinstance(draw, _Draw):
        return None
    if not executor.draws(draw.likelihood):
        return None
    if isinstance(executor, LoweredExecutor):
        executor.set_images(*draw.image())

    def draw_row(row: int) -> tuple[Tensor, Tensor | None]:
        drawn = executor.draw_row() if isinstance(executor, LoweredExecutor) else executor.draw_row(*draw.row(row))
        params = executor.row_parameters
        return drawn.permute(0, 2, 1), None if params is None else params.permute(0, 2, 1)

    return draw_row


class _Score:
    """Sums log p(x) over the rows of a batch."""

    def __init__(self, likelihood: Likelihood, shape: tuple[int, ...], like: Tensor, n: int) -> None:
        self.likelihood = likelihood
        self.params = like.new_zeros(n, likelihood.n_params, shape[2])  # of the row
        self.total = torch.zeros(n, dtype=torch.float64, device=like.device)

    def add(self, x: Tensor) -> None:
        """Score a row [N, C, W] by its parameters."""
        terms = self.likelihood.log_prob(x.unsqueeze(2), self.params.unsqueeze(2))
        self.total += terms.sum(dim=(1, 2), dtype=torch.float64)


class _Noise:
    """The uniforms of a batch, laid out so that a pixel's are one contiguous view."""

    def __init__(
        self, seed: int, images: Tensor, shape: tuple[int, ...], likelihood: Likelihood, device: torch.device
    ) -> None:
        values = uniforms(seed, images.to(device), shape[1], shape[2], likelihood.n_draws)
        self.rows = values.permute(2, 3, 0, 1).contiguous()  # [H, W, N, U]


class _Draw:
    """Draws pixels from a likelihood, or keeps given ones."""

    def __init__(
        self,
        likelihood: Likelihood,
        noise: _Noise,
        temperature: tuple[float, ...],
        kept: tuple[Tensor, Tensor] | None,
        substeps: int,
        like: Tensor,
    ) -> None:
        self.likelihood, self.noise = likelihood, noise.rows
        self.temperature = torch.tensor(temperature, dtype=torch.float64)
        self.groups = [(likelihood, slice(None), slice(None), slice(None))]
        self.group_temperatures: list[Any] = [temperature if len(set(temperature)) > 1 else temperature[0]]
        # draws of channels one by one, each with its temperature
        alone = not likelihood.coupled and (substeps > 1 or len(set(temperature)) > 1)
        if alone:
            self.groups = [(*likelihood.channel(c), slice(c, c + 1)) for c in range(likelihood.channels)]
            self.group_temperatures = list(temperature)
        self.together = alone and substeps == 1
        self.kept = None
        if kept is not None:
            signal = levels_to_signal(kept[0].to(like.device), likelihood.levels, like.dtype)
            self.kept = (signal, kept[1].to(like.device).expand_as(signal), kept[1].flatten(0, 1).any(0).cpu())
            self.kept_rows = [
                tensor.expand(self.noise.shape[2], -1, -1, -1).permute(2, 3, 0, 1).contiguous()
                for tensor in self.kept[:2]
            ]

    def row(self, row: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What draws of a whole row need: uniforms [W, N, U], temperature, and what is kept, [W, N, C], where."""
        kept, mask = (None, None) if self.kept is None else (rows[row] for rows in self.kept_rows)
        return self.noise[row], self.temperature, kept, mask

    def image(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What draws of all pixels need: as `row`, with [H W, ...] in place of [W, ...]."""
        kept, mask = (None, None) if self.kept is None else (rows.flatten(0, 1) for rows in self.kept_rows)
        return self.noise.flatten(0, 1), self.temperature, kept, mask

    def __call__(self, row: int, column: int, group: int, params: Tensor) -> Tensor:
        if self.together:
            return torch.cat([self.channels(row, column, g, params) for g in range(len(self.groups))], 1)
        return self.channels(row, column, group, params)

    def channels(self, row: int, column: int, group: int, params: Tensor) -> Tensor:
        """Draw one group of channels."""
        likelihood, part, draws, channels = self.groups[group]
        noise = self.noise[row, column][:, draws]
        x = likelihood.sample(params[:, part], noise, temperature=self.group_temperatures[group])
        if self.kept is not None and self.kept[2][row, column]:
            signal, mask, _ = self.kept
            x = torch.where(mask[:, channels, row, column], signal[:, channels, row, column], x)
        return x


def _check_temperature(temperature: float | Sequence[float], channels: int) -> tuple[float, ...]:
    each = (temperature,) * channels if isinstance(temperature, (int, float)) else tuple(map(float, temperature))
    if len(each) != channels or not all(0 <= t < math.inf for t in each):
        raise ValueError(
            f"sample: temperature must not be negative, one number or one for each of {channels} channels; "
            f"got {temperature}"
        )
    return each


def _likelihood_of(model: nn.Module) -> Likelihood:
    likelihood = getattr(model, "likelihood", None)
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"sample: the model must have a `likelihood` of fastgen.likelihoods; got {type(likelihood).__name__} on "
            f"{type(model).__name__}; set model.likelihood, for example to Categorical(channels=3)"
        )
    return likelihood


def _parts(likelihood: Likelihood) -> list[slice]:
    """The slices of the parameters that the draws of a pixel need, one after another."""
    if likelihood.coupled:
        return [slice(0, likelihood.n_params)]
    return [likelihood.channel(c)[1] for c in range(likelihood.channels)]


def _shape_of(model: nn.Module, shape: tuple[int, ...] | None, given: Tensor | None) -> tuple[int, ...]:
    channels = _likelihood_of(model).channels
    if shape is None:
        size = getattr(model, "size", None) or getattr(model, "image_size", None)
        if size is None and given is not None:
            size = given.shape[2:]
        if size is None:
            raise ValueError("sample: the model knows no image size; got shape=None; pass shape=(C, H, W)")
        shape = (channels, *size)
    if len(shape) not in (2, 3) or shape[0] != channels or min(shape) < 1:
        raise ValueError(
            f"sample: shape must be ({channels}, H, W) with H and W at least 1, or ({channels}, T) for a model of "
            f"sequences; got {tuple(shape)}"
        )
    return tuple(int(size) for size in shape)


def _raster(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W), of a sequence (C, 1, T)."""
    return (shape[0], 1 if len(shape) == 2 else shape[1], shape[-1])


def _check_precision(precision: str | None, method: str) -> None:
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, tuple(PRECISIONS))
    if precision is not None and method not in ("cuda_graph", "megakernel"):
        raise ValueError(
            f'prepare: precision is for method="cuda_graph" and "megakernel"; got {precision!r} with {method!r}; '
            "leave it out, or convert the model"
        )


def _check_prepared(
    prepared: Executor, n: int, shape: tuple[int, ...] | None, cond: Any, return_log_prob: bool
) -> None:
    whole_rows = (LoweredExecutor, NativeExecutor)
    if return_log_prob and isinstance(prepared, whole_rows) and prepared.row_parameters is None:
        raise ValueError(
            "sample: `prepared` keeps no parameters to score images by; got return_log_prob=True; "
            "prepare with return_log_prob=True too"
        )
    if n > prepared.n_images or (shape is not None and _raster(shape) != prepared.image_shape) or cond is not None:
        raise ValueError(
            f"sample: `prepared` serves up to {prepared.n_images} images of shape {prepared.image_shape} with its own "
            f"labels; got n={n}, shape={shape}, cond={'None' if cond is None else 'labels'}; prepare again"
        )


def _check_given(
    given: Tensor | None, mask: Tensor | None, n: int, shape: tuple[int, ...], levels: int
) -> tuple[Tensor | None, Tensor | None]:
    if (given is None) != (mask is None):
        raise ValueError("sample: given and mask come together; got only one of them")
    if given is None or mask is None:
        return None, None
    levels_dtype = torch.uint8 if levels <= 256 else torch.int32
    if (
        given.dtype != levels_dtype
        or given.dim() != 1 + len(shape)
        or given.shape[0] not in (1, n)
        or (tuple(given.shape[1:]) != shape)
    ):
        raise ValueError(
            f"sample: given must be {str(levels_dtype).removeprefix('torch.')} levels "
            f"[{n} or 1, {', '.join(map(str, shape))}]; got {given.dtype} {list(given.shape)}"
        )
    if given.numel() and int(given.max()) >= levels:
        raise ValueError(f"sample: given must hold levels below {levels}; got {int(given.max())}; requantise the image")
    fits = (
        mask.dim() == given.dim()
        and mask.shape[0] in (1, n)
        and mask.shape[1] in (1, shape[0])
        and mask.shape[2:] == given.shape[2:]
    )
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"sample: mask must be bool [{n} or 1, 1 or {shape[0]}, {', '.join(map(str, shape[1:]))}], True where "
            f"given is kept; got {mask.dtype} {list(mask.shape)}"
        )
    raster = _raster(shape)
    given, mask = given.view(len(given), *raster), mask.view(len(mask), -1, *raster[1:])
    return given, mask


def _check_images(images: Tensor | None, first_image: int, n: int) -> Tensor:
    """The index of every image, int64 [n]."""
    if images is None:
        return torch.arange(first_image, first_image + n)
    if images.dtype != torch.int64 or images.shape != (n,) or first_image:
        raise ValueError(
            f"sample: images must be [{n}] int64 indices, without first_image; got {images.dtype} "
            f"{list(images.shape)}, first_image={first_image}"
        )
    return images


def _check_cond(model: nn.Module, cond: Any, n: int) -> Any:
    prepare = getattr(model, "prepare_cond", None)
    return cond if prepare is None else prepare(cond, n)


def _part_of(cond: Any, part: slice) -> Any:
    """What some of the images are conditioned on; of a mapping every entry holds one for each image."""
    if isinstance(cond, Mapping):
        return {key: _part_of(value, part) for key, value in cond.items()}
    return None if cond is None else cond[part]


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if len(tensor) == 1 else tensor[rows.to(tensor.device)]


class _Progress:
    """A bar over the rows of all batches, or nothing."""

    def __init__(self, show: bool, n: int, shape: tuple[int, int, int]) -> None:
        self.bar = None
        if show:
            from tqdm import tqdm

            self.bar = tqdm(total=None, unit="row", desc=f"sampling {n} of {shape[1]}x{shape[2]}")

    def __enter__(self) -> Callable[[], object]:
        return (lambda: None) if self.bar is None else self.bar.update

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
